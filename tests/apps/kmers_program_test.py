#!/usr/bin/env python3
"""The kmers program from outside: its counts against jellyfish's and against a count in plain
Python, bad input, and what it writes. $KMERS is the program."""

import collections
import contextlib
import gzip
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import tempfile
import unittest
import xml.dom.minidom
import zlib

KMERS = os.environ["KMERS"]
READS = pathlib.Path("/usr/share/doc/bowtie2/examples/reads")
GENOME = pathlib.Path("/usr/share/doc/bowtie2/examples/reference/lambda_virus.fa.gz")
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def count_in_python(sequences, k):
    """Canonical k-mers of sequences, as {letters: count}."""
    counts = collections.Counter()
    for sequence in sequences:
        for piece in re.findall("[ACGT]+", sequence.upper()):
            reverse = piece.translate(COMPLEMENT)[::-1]
            last = len(piece) - k
            for i in range(last + 1):
                counts[min(piece[i : i + k], reverse[last - i : last - i + k])] += 1
    return counts


class Program(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="kmers."))
        self.addCleanup(shutil.rmtree, self.folder)

    def kmers(self, *arguments, **options):
        return subprocess.run(
            [KMERS, *map(str, arguments)], capture_output=True, text=True, timeout=200, **options
        )

    def counts(self, *arguments):
        """What --dump says, as {letters: count}."""
        path = self.folder / "dump"
        done = self.kmers(*arguments, "--dump", path)
        self.assertEqual(done.returncode, 0, done.stderr)
        pairs = [line.split() for line in path.read_text().splitlines()]
        counts = {kmer: int(count) for kmer, count in pairs}
        self.assertEqual(len(counts), len(pairs), "a k-mer stands there twice")
        return counts

    def write(self, name, text):
        path = self.folder / name
        data = text.encode() if isinstance(text, str) else text
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path


class Counts(Program):
    def jellyfish(self, k, *files):
        plain = self.folder / "plain"
        plain.write_bytes(b"".join(gzip.decompress(f.read_bytes()) for f in files))
        table = self.folder / "table"
        subprocess.run(
            ["jellyfish", "count", "-C", "-m", str(k), "-s", "4M", "-o", table, plain], check=True
        )
        dump = subprocess.run(
            ["jellyfish", "dump", "-c", table], check=True, capture_output=True, text=True
        ).stdout
        return {kmer: int(count) for kmer, count in map(str.split, dump.splitlines())}

    def test_reads_count_as_jellyfish_counts_them(self):
        reads = sorted(READS.glob("*.fq.gz"))
        self.assertEqual(len(reads), 3, "the package bowtie2-examples is missing")
        for k in (5, 21, 31):
            expected = self.jellyfish(k, *reads)
            for options in ([], ["--serial"], ["-w", "3", "--batch", "7"]):
                with self.subTest(k=k, options=options):
                    self.assertEqual(self.counts("-k", k, *options, *reads), expected)

    def test_genome_counts_as_jellyfish_and_python_count_it(self):
        lines = gzip.decompress(GENOME.read_bytes()).decode().splitlines()
        sequence = "".join(lines[1:])
        for k in (1, 2, 12, 31):
            with self.subTest(k=k):
                counts = self.counts("-k", k, "--batch", "1", GENOME)
                self.assertEqual(counts, self.jellyfish(k, GENOME))
                self.assertEqual(counts, count_in_python([sequence], k))

    def test_random_files_count_as_python_counts_them(self):
        rng = random.Random(20)
        for run in range(12):
            letters = rng.choice(["ACGT", "ACGTN", "acgtACGTNRYKM-", "AC"])
            sequences = [
                "".join(rng.choices(letters, k=rng.randrange(rng.choice([3, 300, 5000]))))
                for _ in range(rng.randrange(1, 40))
            ]
            end = rng.choice(["\n", "\r\n"])
            width = rng.choice([1, 7, 60, 10000])
            fasta = "".join(
                f">{i}{end}" + "".join(s[j : j + width] + end for j in range(0, len(s), width))
                for i, s in enumerate(sequences)
            )
            fastq = "".join(f"@{i}{end}{s}{end}+{end}{'@' * len(s)}{end}"
                            for i, s in enumerate(sequences))  # fmt: skip
            k = rng.randrange(1, 32)
            files = [self.write(f"{run}.fa", fasta), self.write(f"{run}.fq.gz", fastq)]
            with self.subTest(run=run, k=k, width=width):
                expected = count_in_python(2 * sequences, k)
                self.assertEqual(self.counts("-k", k, "--batch", "1", *files), expected)

    def test_standard_input_is_a_file_too(self):
        with open(GENOME, "rb") as genome:
            done = self.kmers("-", "--histogram", self.folder / "h1", stdin=genome)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.kmers(GENOME, "--histogram", self.folder / "h2").returncode, 0)
        self.assertEqual((self.folder / "h1").read_text(), (self.folder / "h2").read_text())


class Errors(Program):
    def rejected(self, text, *arguments):
        """Exit code 2 and this text on stderr, serial and parallel."""
        for options in ([], ["--serial"], ["--compare"], ["--batch", "1", "-w", "2"]):
            with self.subTest(text=text, options=options):
                done = self.kmers(*options, *arguments)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertTrue(done.stderr.startswith("kmers: "), done.stderr)
                self.assertIn(text, done.stderr)

    def test_files_that_cannot_be_read(self):
        self.rejected("none.fa: No such file or directory", self.folder / "none.fa")
        self.rejected("No such file or directory", GENOME, self.folder / "none.fa")
        self.rejected("Is a directory", self.folder)
        self.rejected("empty.fa:1: the file is empty", self.write("empty.fa", ""))
        self.rejected("e.fa.gz:1: the file is empty", self.write("e.fa.gz", ""))
        self.rejected("x.txt:1: neither FASTA", self.write("x.txt", "hello\n"))

    def test_truncated_and_damaged_gzip(self):
        whole = GENOME.read_bytes()
        for part in (whole[:-5], whole[:9000], whole[:20]):
            line = 1 + zlib.decompressobj(31).decompress(part).count(b"\n")
            text = f"cut.fa:{line}: truncated: gzip data ends early"
            self.rejected(text, self.write("cut.fa", part))
        damaged = bytearray(whole)
        damaged[5000] ^= 0xFF
        path = self.write("damaged.fa", bytes(damaged))
        self.assertEqual(self.kmers(path).returncode, 2)

    def test_gzip_data_ends_with_its_last_member(self):
        first = gzip.compress(b">x\nACGTACGTAC\n")
        second = gzip.compress(b">y\nCCCCCCCCCC\n")
        for whole in (first + second, first + second + bytes(700)):
            self.assertEqual(self.counts("-k", "10", self.write("two.fa", whole)),
                             {"ACGTACGTAC": 1, "CCCCCCCCCC": 1})  # fmt: skip
        damaged = bytearray(second)
        damaged[0] ^= 1
        for tail in (bytes(damaged), b"x", bytes(9) + second, second[:1]):
            path = self.write("tail.fa", first + tail)
            self.rejected("tail.fa:3: damaged gzip data (no gzip data, as before)", path)

    def test_bad_characters_name_file_and_line(self):
        lines = [">x"] + ["ACGT" * 20] * 500
        lines[321] = "ACGJ"
        path = self.write("bad.fa", "\n".join(lines))
        self.rejected("bad.fa:322: bad character 'J'", path)
        self.rejected("bad.fa:322: bad character 'J'", GENOME, path)

    def test_the_first_error_in_the_input_is_reported(self):
        lines = [">x"] + ["ACGT" * 20] * 5000
        lines[777] = "AC!T"
        lines[4444] = "AC?T"
        data = gzip.compress("\n".join(lines).encode())
        path = self.write("two.fa", data[: len(data) - 4])
        self.rejected("two.fa:778: bad character '!'", path)

    def test_broken_fastq_records(self):
        good = "@r\nACGT\n+\nIIII\n"
        broken = self.write("x.fq", good * 100 + "@r\nACG\n+\nII\n" + good)
        self.rejected("x.fq:404: length mismatch: 2 qualities for 3 bases", broken)
        self.rejected("x.fq:403: the file ends before", self.write("x.fq", good * 100 + "@r\nA\n+\n"))

    def test_options_that_make_no_sense(self):
        for bad in (["-k", "32"], ["-k", "0"], ["-k", "x"], ["-w", "0"], ["--top", "-1"],
                    ["--nonsense"], []):  # fmt: skip
            with self.subTest(bad=bad):
                files = [GENOME] if bad else []
                self.assertEqual(self.kmers(*files, *bad).returncode, 2)
        done = self.kmers(GENOME, "--bind", "nonsense")
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("nonsense", done.stderr)

    def test_output_that_cannot_be_written(self):
        for option in ("--svg", "--histogram", "--dump"):
            done = self.kmers(GENOME, option, "/nonexistent/x")
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("/nonexistent/x: cannot write", done.stderr)

        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([KMERS, GENOME], stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("standard output: cannot write: No space left", done.stderr)

    def test_standard_input_that_is_closed(self):
        for options in (["--serial"], []):
            done = self.kmers(*options, "-", preexec_fn=lambda: os.close(0))
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("-: Bad file descriptor", done.stderr)

    def test_killed_workers_are_reported_or_harmless(self):
        data = (">x\n" + "".join(random.Random(1).choices("ACGT", k=3_000_000))).encode()
        whole = self.folder / "whole"
        self.assertEqual(self.kmers(self.write("x.fa", data), "--histogram", whole).returncode, 0)
        for kills_after in (0, 70_000, 500_000, 2_000_000, 2_900_000):
            with self.subTest(kills_after=kills_after):
                code, errors, histogram = self.run_and_kill(data, kills_after)
                # Killed in a task: its batch is lost. Between tasks: what was counted stands in
                # shared memory, and another worker counts the rest.
                if code == 0:
                    self.assertEqual(histogram, whole.read_text())
                else:
                    self.assertEqual(code, 1, errors)
                    self.assertIn("kmers: ", errors)

    def run_and_kill(self, data, kills_after):
        """Kills all processes of the pool once so many bytes went in: code, stderr, histogram."""
        path = self.folder / "killed"
        program = subprocess.Popen(
            [KMERS, "-w", "2", "--batch", "64", "--histogram", path, "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            program.stdin.write(data[:kills_after])
            program.stdin.flush()
            while len(self.descendants(program.pid)) < 3:  # a zygote and two workers
                self.assertIsNone(program.poll(), "it ended before it had workers")
            for pid in self.descendants(program.pid):
                with contextlib.suppress(ProcessLookupError):  # workers end with their zygote
                    os.kill(pid, signal.SIGKILL)
            program.stdin.write(data[kills_after:])
        except BrokenPipeError:
            pass  # it has noticed
        _, errors = program.communicate(timeout=100)
        return program.returncode, errors.decode(), path.read_text() if path.exists() else ""

    @staticmethod
    def descendants(root):
        """Processes below root, from the kernel's own lists."""
        found, todo = [], [root]
        while todo:
            pid = todo.pop()
            for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    children = [int(child) for child in task.read_text().split()]
                except OSError:  # it has ended meanwhile
                    continue
                found += children
                todo += children
        return found


class Output(Program):
    def test_report_shows_everything(self):
        done = self.kmers(GENOME, "--compare", "-w", "2", "--top", "3")
        self.assertEqual(done.returncode, 0, done.stderr)
        for expected in ("2 workers", "decided by", "1 records, 48,502 bases, 48,482 k-mers",
                         "most frequent", "multiplicity", "speed-up: ", "same spectrum"):  # fmt: skip
            self.assertIn(expected, done.stdout)
        self.assertIn("100 %", done.stderr)
        self.assertEqual(self.kmers(GENOME, "-q").stderr, "")

    def test_top_are_the_most_frequent(self):
        done = self.kmers(GENOME, "-k", "3", "--top", "5")
        sequence = "".join(gzip.decompress(GENOME.read_bytes()).decode().splitlines()[1:])
        expected = sorted(count_in_python([sequence], 3).items(), key=lambda e: (-e[1], e[0]))[:5]
        found = re.findall(r"^  ([ACGT]{3}) +([\d,]+)$", done.stdout, re.M)
        self.assertEqual([(k, int(n.replace(",", ""))) for k, n in found], expected)

    def test_histogram_and_picture(self):
        text, picture = self.folder / "h.txt", self.folder / "h.svg"
        done = self.kmers(GENOME, "--histogram", text, "--svg", picture)
        self.assertEqual(done.returncode, 0, done.stderr)
        counts = self.counts(GENOME)
        histogram = collections.Counter(counts.values())
        lines = [f"{m} {n}" for m, n in sorted(histogram.items())]
        self.assertEqual(text.read_text().splitlines(), lines)
        svg = xml.dom.minidom.parse(str(picture)).documentElement
        self.assertEqual(svg.tagName, "svg")
        self.assertGreaterEqual(len(svg.getElementsByTagName("rect")), 1 + len(lines))

    def test_nothing_to_count_is_a_result(self):
        path = self.write("short.fa", ">a\nACGT\n>b\nNNNNNNNNNNNNNNNNNNNNNNNNNNNNNN\n")
        done = self.kmers(path, "--compare", "--svg", self.folder / "x.svg")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("2 records, 34 bases, 0 k-mers", done.stdout)


if __name__ == "__main__":
    unittest.main()
