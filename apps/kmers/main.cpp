// kmers: the k-mer spectrum of FASTA and FASTQ files, counted by a pool of processes.
#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <limits>
#include <millrace/errors.hpp>
#include <sstream>
#include <string>

#include "kmers/input_error.hpp"
#include "kmers/kmer.hpp"
#include "kmers/progress.hpp"
#include "kmers/report.hpp"
#include "kmers/run.hpp"

namespace kmers {
namespace {

struct Options {
  RunOptions run;
  std::size_t batch_kib = 256;
  bool serial = false;
  bool compare = false;
  bool quiet = false;
  std::string svg;
  std::string histogram;
};

void declare(CLI::App& app, Options& options) {
  auto& input = options.run.input;
  app.add_option("files", input.files, "FASTA or FASTQ files, plain or gzipped; - for stdin")
      ->required();
  app.add_option("-k", input.k, "length of the k-mers")
      ->check(CLI::Range(1, kMaxK))
      ->capture_default_str();
  app.add_option("-w,--workers", options.run.workers, "worker processes (default: one per cpu)")
      ->check(CLI::Range(1, 4096));
  app.add_option("--bind", options.run.bind,
                 "where workers run: none compact spread numa core ...");
  app.add_option("--batch", options.batch_kib, "KiB of input per task")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--top", options.run.top, "how many of the most frequent k-mers to show")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--svg", options.svg, "write the histogram as a picture to this file");
  app.add_option("--histogram", options.histogram, "write the histogram as text to this file");
  app.add_option("--dump", options.run.dump, "write all k-mers with their counts to this file");
  auto* const serial = app.add_flag("--serial", options.serial, "count in this process alone");
  app.add_flag("--compare", options.compare, "count both ways and show the speed-up")
      ->excludes(serial);
  app.add_flag("-q,--quiet", options.quiet, "no progress bar");
}

void write_file(const std::string& path, const std::string& text) {
  if (path.empty()) return;
  std::ofstream file(path);
  file << text << std::flush;
  if (!file) throw InputError(path, 0, std::string("cannot write: ") + std::strerror(errno));
  std::cout << "wrote " << path << "\n";
}

RunResult run(const Options& options, bool serial) {
  ProgressLine line(serial ? "counting, serial" : "counting", !options.quiet);
  const auto progress = [&](std::uint64_t done, std::uint64_t total) { line.update(done, total); };
  RunResult result =
      serial ? run_serial(options.run, progress) : run_parallel(options.run, progress);
  line.finish();
  return result;
}

void show(const Options& options, const RunResult& result) {
  const int k = options.run.input.k;
  if (!result.bindings.empty()) {
    std::cout << "\n" << result.bindings.size() << " workers\n";
    print_bindings(std::cout, result.bindings);
  }
  std::cout << "\n"
            << grouped(result.tally.records) << " records, " << grouped(result.tally.bases)
            << " bases, " << grouped(result.tally.kmers) << " k-mers (k = " << k << "), "
            << grouped(result.spectrum.distinct) << " different\n"
            << "tables: " << result.table_bytes / (1U << 20U) << " MiB\n";
  if (options.run.top > 0) {
    std::cout << "\nmost frequent\n";
    print_top(std::cout, result.spectrum, k);
  }
  std::cout << "\nhistogram\n";
  print_histogram(std::cout, result.spectrum);
  std::cout << std::fixed << std::setprecision(2) << "\n"
            << (options.serial ? "serial" : "parallel") << ": " << result.seconds << " s ("
            << std::setprecision(1)
            << static_cast<double>(result.tally.bases) / result.seconds / 1e6
            << " million bases/s; merging " << std::setprecision(2) << result.merge_seconds
            << " s)\n";
}

bool same(const Spectrum& a, const Spectrum& b) {
  return a.distinct == b.distinct && a.total == b.total && a.histogram == b.histogram;
}

// Returns the exit code.
int main_program(const Options& options) {
  RunResult serial;
  if (options.compare) serial = run(options, true);
  const RunResult result = run(options, options.serial);
  show(options, result);
  if (options.compare) {
    if (!same(serial.spectrum, result.spectrum)) {
      std::cerr << "kmers: the serial and the parallel run disagree\n";
      return 1;
    }
    std::cout << "serial:   " << serial.seconds
              << " s\nspeed-up: " << serial.seconds / result.seconds << " with "
              << result.bindings.size() << " workers, same spectrum\n";
  }
  std::string names;
  for (const std::string& file : options.run.input.files) {
    names += (names.empty() ? "" : ", ") + file.substr(file.rfind('/') + 1);
  }
  const std::string title =
      "Spectrum of " + std::to_string(options.run.input.k) + "-mers: " + names;
  write_file(options.svg, histogram_svg(result.spectrum, title));
  write_file(options.histogram, histogram_lines(result.spectrum));
  errno = 0;
  if (!std::cout.flush()) {
    const std::string why = errno == 0 ? "" : std::string(": ") + std::strerror(errno);
    throw InputError("standard output", 0, "cannot write" + why);
  }
  return 0;
}

}  // namespace
}  // namespace kmers

int main(int argc, char** argv) {
  CLI::App app{"Counts canonical k-mers of FASTA and FASTQ files with a pool of processes."};
  kmers::Options options;
  kmers::declare(app, options);
  try {
    app.parse(argc, argv);
    options.run.input.batch_bytes = options.batch_kib << 10U;
    return kmers::main_program(options);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const kmers::InputError& error) {
    std::cerr << "kmers: " << error.what() << "\n";
    return 2;
  } catch (const millrace::ValueError& error) {  // --bind
    std::cerr << "kmers: " << error.what() << "\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "kmers: " << error.what() << "\n";
    return 1;
  }
}
