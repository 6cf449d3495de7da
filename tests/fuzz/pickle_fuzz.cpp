// Hostile pickles: whatever comes in, the unpickler gives a value or one of its two errors; and a
// value that came out is written, read again and the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <millrace/errors.hpp>
#include <string_view>

#include "runtime/values/pickle.hpp"

namespace {

using millrace::Object;
namespace runtime = millrace::runtime;

// Small, so that an input cannot stand for more work than it is worth.
constexpr runtime::PickleLimits kLimits{
    .bytes = 1 << 16, .memo = 4096, .values = 1 << 14, .depth = 200};

void check(const Object& value) {
  millrace::wire::Writer out;
  runtime::pickle(out, value);
  const Object again = runtime::unpickle({reinterpret_cast<const char*>(out.data()), out.size()});
  if (again.repr() != value.repr()) std::abort();
  try {
    if (value == again && value.hash() != again.hash()) std::abort();
  } catch (const millrace::TypeError&) {  // unhashable
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    check(runtime::unpickle({reinterpret_cast<const char*>(data), size}, kLimits));
  } catch (const millrace::UnpicklingError&) {
  } catch (const millrace::OverflowError&) {
  }
  return 0;
}
