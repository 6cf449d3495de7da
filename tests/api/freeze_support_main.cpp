// The main() of test programs that execute themselves: those that run under spawn and forkserver.
#include <gtest/gtest.h>

#include <millrace/process.hpp>

int main(int argc, char** argv) {
  millrace::freeze_support(argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
