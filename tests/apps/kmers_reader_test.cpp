#include <gtest/gtest.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "kmers/batch_reader.hpp"
#include "kmers/input_error.hpp"
#include "kmers/kmer.hpp"
#include "kmers/scan.hpp"

namespace kmers {
namespace {

class KmersReader : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "kmersXXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  std::string write_gzip(const std::string& name, const std::string& text) const {
    const std::string path = folder_ / name;
    gzFile file = gzopen(path.c_str(), "ab");  // appends a member
    gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
    gzclose(file);
    return path;
  }

  std::filesystem::path folder_;
};

std::vector<std::string> kmers_in(const std::vector<std::string>& files, std::size_t batch_bytes,
                                  int k = 4) {
  BatchReader reader({.files = files, .k = k, .batch_bytes = batch_bytes});
  std::vector<std::string> found;
  for (Batch batch; reader.next(batch);) {
    (void)scan(batch, k, [&](auto kmers) {
      for (const auto kmer : kmers) found.push_back(letters(kmer, k));
    });
  }
  EXPECT_EQ(reader.bytes_read(), reader.bytes_total());
  return found;
}

std::string error_of(const std::string& file, std::size_t batch_bytes = 16) {
  try {
    (void)kmers_in({file}, batch_bytes);
  } catch (const InputError& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with(file + ":")) << error.what();
    return std::string(error.what()).substr(file.size() + 1);
  }
  return "no error";
}

const std::string kFasta =
    ">one\nACGTTGCA\nCCA\n\nGGATTACA\n>two with a long description >\n\n>three\nTTGACANNNACGGTA\r\n"
    "GAT\r\n>four\nACGATCGATCGATCGTACGTACGATCAGCTACGACT";
const std::string kFastq =
    "@r1\nACGTTGCAGGT\n+\n@@@@@@@@@@@\n@r2\nGATTACA\n+r2\n+++++++\n@r3\n\n+\n\n@r4\nTTTTACGT\n+"
    "\nIIIIIIII";

TEST_F(KmersReader, WhereFilesAreCutDoesNotMatter) {
  for (const auto& [name, text] : {std::pair{"x.fa", kFasta}, std::pair{"x.fq", kFastq}}) {
    const std::string path = write(name, text);
    const auto whole = kmers_in({path}, 1U << 20U);
    EXPECT_GT(whole.size(), 10U);
    for (std::size_t bytes = 1; bytes < text.size() + 2; ++bytes) {
      EXPECT_EQ(kmers_in({path}, bytes), whole) << name << " in batches of " << bytes;
    }
  }
}

TEST_F(KmersReader, GzipIsReadLikeText) {
  const auto text = kmers_in({write("x.fa", kFasta)}, 1000);
  EXPECT_EQ(kmers_in({write_gzip("x.fa.gz", kFasta)}, 1000), text);
  (void)write_gzip("two.gz", kFasta.substr(0, 50));
  EXPECT_EQ(kmers_in({write_gzip("two.gz", kFasta.substr(50))}, 7), text);
}

TEST_F(KmersReader, FilesFollowOneAnother) {
  const std::string fasta = write("x.fa", kFasta);
  const std::string fastq = write_gzip("x.fq.gz", kFastq);
  auto expected = kmers_in({fasta}, 20);
  const auto second = kmers_in({fastq}, 20);
  expected.insert(expected.end(), second.begin(), second.end());
  EXPECT_EQ(kmers_in({fasta, fastq}, 20), expected);
}

TEST_F(KmersReader, BatchesStaySmall) {
  const std::string path = write("x.fa", ">chromosome\n" + std::string(100000, 'A'));
  BatchReader reader({.files = {path}, .k = 21, .batch_bytes = 1000});
  std::size_t batches = 0;
  for (Batch batch; reader.next(batch); ++batches) EXPECT_LE(batch.text.size(), 1000U);
  EXPECT_GE(batches, 100U);
}

TEST_F(KmersReader, FilesThatCannotBeReadAreNamed) {
  EXPECT_EQ(error_of(folder_ / "none.fa"), " No such file or directory");
  EXPECT_EQ(error_of(folder_), " Is a directory");
  EXPECT_EQ(error_of(write("empty.fa", "")), "1: the file is empty");
  EXPECT_EQ(error_of(write_gzip("empty.fa.gz", "")), "1: the file is empty");
  EXPECT_EQ(error_of(write("text.txt", "hello\n")),
            "1: neither FASTA (starts with '>') nor FASTQ ('@')");
}

TEST_F(KmersReader, TruncatedGzipIsAnErrorWhereverItEnds) {
  std::string lines = ">a\n";
  for (int i = 0; i < 2000; ++i) lines += letters(static_cast<std::uint64_t>(i) * 7919U, 12) + "\n";
  const std::string whole = write_gzip("x.fa.gz", lines);
  const auto bytes = std::filesystem::file_size(whole);
  for (std::uintmax_t kept = 3; kept < bytes; kept += kept < 40 || kept + 40 > bytes ? 1 : 257) {
    std::filesystem::copy_file(whole, folder_ / "cut.gz",
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(folder_ / "cut.gz", kept);
    const std::string error = error_of(folder_ / "cut.gz", 5000);
    EXPECT_TRUE(error.ends_with(": truncated: gzip data ends early")) << kept << error;
  }
}

TEST_F(KmersReader, DamagedGzipIsAnError) {
  std::string lines = ">a\n";
  for (int i = 0; i < 2000; ++i) lines += letters(static_cast<std::uint64_t>(i) * 7919U, 12) + "\n";
  const std::string path = write_gzip("x.fa.gz", lines);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(std::filesystem::file_size(path) - 6));
  file << "\x55\xAA";
  file.close();
  EXPECT_NE(error_of(path, 5000).find("damaged gzip data"), std::string::npos);
}

}  // namespace
}  // namespace kmers
