// CPython beside the test: lines in, lines out.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace oracle {

/// Runs the script that stands beside the tests; `lines` are its input. Lines as words.
inline std::vector<std::vector<std::string>> ask(const std::string& arguments,
                                                 const std::vector<std::string>& lines = {}) {
  std::string folder = (std::filesystem::temp_directory_path() / "oracle-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) throw std::runtime_error("no temporary folder");
  const std::string input = folder + "/in";
  const std::string output = folder + "/out";
  std::ofstream file(input);
  for (const std::string& line : lines) file << line << '\n';
  file.close();
  const std::string command =
      "python3 " MILLRACE_PICKLE_ORACLE " " + arguments + " <" + input + " >" + output;
  const int status = std::system(command.c_str());
  EXPECT_EQ(status, 0) << command;
  std::vector<std::vector<std::string>> answers;
  std::ifstream answer(output);
  for (std::string line; std::getline(answer, line);) {
    std::istringstream words(line);
    answers.emplace_back();
    for (std::string word; words >> word;) answers.back().push_back(word);
  }
  answer.close();
  std::filesystem::remove_all(folder);
  return answers;
}

inline std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

inline std::string to_hex(std::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const char each : bytes) {
    hex += kDigits[static_cast<unsigned char>(each) >> 4];
    hex += kDigits[static_cast<unsigned char>(each) & 15];
  }
  return hex;
}

}  // namespace oracle
