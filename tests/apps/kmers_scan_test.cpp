#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kmers/input_error.hpp"
#include "kmers/kmer.hpp"
#include "kmers/scan.hpp"

namespace kmers {
namespace {

std::vector<std::string> kmers_of(const Batch& batch, int k, Tally* tally = nullptr) {
  std::vector<std::string> found;
  const Tally seen = scan(batch, k, [&](auto kmers) {
    for (const auto kmer : kmers) found.push_back(letters(kmer, k));
  });
  if (tally != nullptr) *tally = seen;
  return found;
}

Batch fasta(const std::string& text) { return {.file = "x.fa", .text = text}; }
Batch fastq(const std::string& text) {
  return {.file = "x.fq", .format = Format::fastq, .text = text};
}

std::string error_of(const Batch& batch) {
  try {
    (void)kmers_of(batch, 3);
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

using Kmers = std::vector<std::string>;

TEST(KmersScan, TakesTheSmallerStrand) {
  EXPECT_EQ(kmers_of(fasta(">a\nTTTG\n"), 3), (Kmers{"AAA", "CAA"}));
  EXPECT_EQ(kmers_of(fasta(">a\nACGT\n"), 4), (Kmers{"ACGT"}));
}

TEST(KmersScan, JoinsTheLinesOfARecordAndNothingElse) {
  EXPECT_EQ(kmers_of(fasta(">a\nAA\n\nC\r\n>b\nAAG\n"), 3), (Kmers{"AAC", "AAG"}));
}

TEST(KmersScan, CaseDoesNotMatter) { EXPECT_EQ(kmers_of(fasta(">a\nacG\n"), 3), (Kmers{"ACG"})); }

TEST(KmersScan, AmbiguityCodesSplit) {
  for (const char c : std::string("RYSWKMBDHVNUryswkmbdhvnu-.")) {
    EXPECT_EQ(kmers_of(fasta(std::string(">a\nAAA") + c + "AACC\n"), 3),
              (Kmers{"AAA", "AAC", "ACC"}))
        << c;
  }
}

TEST(KmersScan, EveryOtherCharacterIsBad) {
  const std::string legal = "ACGTURYSWKMBDHVN";
  for (int c = 1; c < 256; ++c) {
    const bool letter = legal.find(static_cast<char>(c & ~0x20)) != std::string::npos && c >= 'A';
    if (letter || c == '-' || c == '.' || c == '\n' || c == '>') continue;
    const Batch batch = fasta(std::string(">a\nA") + static_cast<char>(c) + "A\n");
    EXPECT_TRUE(error_of(batch).starts_with("x.fa:2: bad character ")) << c;
  }
}

TEST(KmersScan, ContextJoinsABatchToTheOneBefore) {
  Batch batch = fasta("GT\n>b\nAAA\n");
  batch.mid_line = true;
  batch.context = "AC";
  Tally tally;
  EXPECT_EQ(kmers_of(batch, 3, &tally), (Kmers{"ACG", "ACG", "AAA"}));  // CGT = ACG reversed
  EXPECT_EQ(tally.bases, 5U);
  EXPECT_EQ(tally.records, 1U);
  EXPECT_EQ(tally.kmers, 3U);
}

TEST(KmersScan, GreaterThanInsideALineIsNoHeader) {
  Batch batch = fasta(">T\n");
  batch.mid_line = true;
  batch.first_line = 7;
  EXPECT_EQ(error_of(batch), "x.fa:7: bad character '>' in the sequence");
}

TEST(KmersScan, LongestKmersKeepAllTheirBases) {
  const std::string sequence = "ACGTACGGTTACGATCGATCCATGCATGACC";
  ASSERT_EQ(sequence.size(), 31U);
  EXPECT_EQ(kmers_of(fasta(">a\n" + sequence + "\n"), 31), (Kmers{sequence}));
}

TEST(KmersScan, ReadsFastqRecords) {
  Tally tally;
  EXPECT_EQ(kmers_of(fastq("@r1\nAAAC\n+\n@+!~\n@r2\r\nGGN\r\n+r2\r\nIII\r\n\n"), 3, &tally),
            (Kmers{"AAA", "AAC"}));
  EXPECT_EQ(tally.records, 2U);
  EXPECT_EQ(tally.bases, 7U);
}

TEST(KmersScan, BrokenFastqNamesTheLine) {
  const std::string good = "@r\nAC\n+\nII\n";
  EXPECT_EQ(error_of(fastq(good + "@r\nACG\n+\nII\n")),
            "x.fq:8: length mismatch: 2 qualities for 3 bases");
  EXPECT_EQ(error_of(fastq(good + "r\nACG\n+\nIII\n")),
            "x.fq:5: a FASTQ record starts with '@', not 'r'");
  EXPECT_EQ(error_of(fastq(good + "@r\nACG\nIII\n@r\n")),
            "x.fq:7: expected the '+' line of a record, not 'I'");
  EXPECT_EQ(error_of(fastq(good + "@r\nACJ\n+\nIII\n")),
            "x.fq:6: bad character 'J' in the sequence");
  EXPECT_EQ(error_of(fastq(good + "@r\nACG\n+\nI\tI\n")),
            "x.fq:8: bad character 0x09 in the qualities");
  EXPECT_EQ(error_of(fastq(good + "@r\nACG\n+\n")),
            "x.fq:7: the file ends before the qualities of a record");
  EXPECT_EQ(error_of(fastq(good + "@r\n")),
            "x.fq:5: the file ends before the sequence of a record");
  EXPECT_EQ(error_of(fastq(good + "\n" + good)),
            "x.fq:5: a FASTQ record starts with '@', not an empty line");
}

}  // namespace
}  // namespace kmers
