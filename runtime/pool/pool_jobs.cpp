// The jobs that move bytes instead of encoded items, and what all jobs of a pool share.
#include <cstring>
#include <exception>
#include <memory>
#include <millrace/bulk_jobs.hpp>
#include <millrace/job.hpp>
#include <millrace/pool_jobs.hpp>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/pool/carriers.hpp"
#include "shm/stream_copy.hpp"
#include "shm/task_ring.hpp"

namespace millrace::runtime {
namespace {

/// How much of a bulk input travels at once: it stays in the second-level cache on its way.
constexpr std::uint64_t kBulkBytes = 120 * 1024;

/// The same with a carrier on the worker's own cpu: its box, input and output, fits into that
/// cache.
constexpr std::uint64_t kBoxBytes = 240 * 1024;
/// Smaller chunks than this are not worth the two switches that a carrier takes for each.
constexpr std::uint64_t kLeastBoxBytes = 64 * 1024;
/// Bytes of input and output, for each worker, that are worth a thread.
constexpr std::uint64_t kWorthCarrier = std::uint64_t{4} << 20;

/// From so many bytes on an array is beyond what a caller still finds in its cache afterwards.
constexpr std::uint64_t kStreamBytes = std::uint64_t{8} << 20;

/// Copies a piece to the workers, or back; `whole`: bytes of the array that it is of.
void carry(void* to, const void* from, std::size_t bytes, std::uint64_t whole) noexcept {
  if (whole >= kStreamBytes) {
    shm::stream_copy(to, from, bytes);
  } else {
    shm::near_copy(to, from, bytes);
  }
}

/// Where `bytes` of payload go in `out`, in memory with `reply` bytes free behind them: a payload
/// that found its place before the reply was known of would be moved to a larger one. Where both
/// fit the line of the task they need no other.
std::byte* payload(wire::Writer& out, std::size_t bytes, std::size_t reply) {
  constexpr std::size_t kPadding = 64;  // the reply begins at a cache line
  constexpr std::size_t kInLine = shm::TaskSlot::kInlineBytes;
  const std::size_t before = out.size();
  if (before + bytes <= kInLine && reply <= kInLine) return out.extend(bytes);
  out.extend(bytes + kPadding + reply);
  out.revert(before);
  return out.extend(bytes);
}

/// Appends the items of a piece; `map`: a BulkMap or BulkInto.
template <class Map>
void put_items(wire::Writer& out, const Map& map, const Piece& piece) {
  const std::size_t bytes = piece.count * map.item_bytes;
  std::byte* const to = payload(out, bytes, piece.count * map.result_bytes);
  const std::byte* const from = static_cast<const std::byte*>(map.items);
  carry(to, from + piece.first * map.item_bytes, bytes, map.size * map.item_bytes);
}

/// Cuts chunks into pieces of `widest` items at most.
class BulkCutter {
 public:
  BulkCutter(std::uint64_t size, std::uint64_t widest, Chunker chunker) noexcept
      : size_(size), widest_(larger(1, widest)), chunker_(chunker) {}
  [[nodiscard]] std::uint64_t widest() const noexcept { return widest_; }
  /// Pieces get smaller, down to `least` items, when less than `shares` wide ones are left.
  void taper(std::uint64_t shares, std::uint64_t least) noexcept {
    shares_ = shares;
    least_ = least;
  }
  Piece next() noexcept {
    if (chunk_end_ == next_) chunk_end_ += chunker_.next(size_ - next_);
    const Piece piece{.first = next_,
                      .count = smaller(chunk_end_ - next_, width()),
                      .starts_chunk = chunk_begin_ == next_};
    next_ += piece.count;
    if (next_ == chunk_end_) chunk_begin_ = next_;
    return piece;
  }

 private:
  [[nodiscard]] std::uint64_t width() const noexcept {
    return shares_ == 0 ? widest_ : smaller(widest_, larger(least_, (size_ - next_) / shares_));
  }

  std::uint64_t size_;
  std::uint64_t widest_;
  Chunker chunker_;
  std::uint64_t shares_ = 0;
  std::uint64_t least_ = 1;
  std::uint64_t next_ = 0;
  std::uint64_t chunk_begin_ = 0;
  std::uint64_t chunk_end_ = 0;
};

class BulkMapJob final : public ErrorJob {
 public:
  BulkMapJob(JobSettings&& settings, const BulkMap& map, Chunker chunker)
      : ErrorJob(std::move(settings)),
        map_(map),
        items_(static_cast<const std::byte*>(map.items)),
        in_place_(in_arena(map.items, map.size * map.item_bytes)),
        cutter_(map.size, kBulkBytes / larger(map.item_bytes, map.result_bytes), chunker) {
    settings_.copied = !in_place_;
  }

  Piece feed(wire::Writer& out) override {
    const Piece piece = skip();
    if (piece.count == 0) return piece;
    const std::byte* from = items_ + piece.first * map_.item_bytes;
    out.put(piece.count);
    if (in_place_) {
      out.put(reinterpret_cast<std::uint64_t>(from));
    } else {
      put_items(out, map_, piece);
    }
    return piece;
  }
  Piece skip() override { return cutter_.next(); }
  std::size_t reply_bytes(const Piece& piece) const override {
    return piece.count * map_.result_bytes;
  }
  void deliver(const Piece& piece, wire::Reader& reply, const PieceReport&) override {
    if (map_.append == nullptr || error_) return;
    const std::size_t size = piece.count * map_.result_bytes;
    const std::byte* bytes = reply.skip(size);
    if (piece.first != appended_) {
      later_.put(piece.first, std::vector<std::byte>(bytes, bytes + size));
      return;
    }
    append(bytes, piece.count);
    while (const auto part = later_.take(appended_)) {
      append(part->data(), part->size() / map_.result_bytes);
    }
  }

 private:
  void append(const std::byte* bytes, std::uint64_t count) {
    map_.append(map_.results, bytes, count);
    appended_ += count;
  }

  BulkMap map_;
  const std::byte* items_;
  bool in_place_;
  BulkCutter cutter_;
  std::uint64_t appended_ = 0;
  EarlyParts<std::vector<std::byte>> later_;
};

/// How the bytes of a map_into between arrays in the parent's private memory travel.
struct BulkRoute {
  std::uint64_t boxes = 0;  ///< of its carriers, 0: none
  std::uint64_t widest = kBulkBytes;
  bool pull = false;  ///< without carriers: workers can reach the parent's private memory
};

/// map_into between arrays in the parent's private memory. Where every worker has a cpu of its own
/// and the arrays are large, a carrier beside it brings and takes the bytes. Else the parent copies
/// most pieces through shared memory, which keeps one worker busy for a fraction of the time; where
/// workers can reach the parent's memory by themselves, every kPullEvery-th piece is theirs to
/// fetch and to put back.
class BulkIntoJob final : public ErrorJob {
 public:
  BulkIntoJob(JobSettings&& settings, const BulkInto& map, const Chunker& chunker,
              const BulkRoute& route)
      : ErrorJob(std::move(settings)),
        map_(map),
        items_(static_cast<const std::byte*>(map.items)),
        results_(static_cast<std::byte*>(map.results)),
        cutter_(map.size, route.widest / larger(map.item_bytes, map.result_bytes), chunker),
        route_(route) {
    settings_.writes_back = route_.pull || route_.boxes != 0;
    settings_.copied = route_.boxes == 0;
  }
  /// As BulkCutter::taper().
  void taper(std::uint64_t shares) { cutter_.taper(shares, larger(1, cutter_.widest() / 32)); }

  Piece feed(wire::Writer& out) override {
    const Piece piece = skip();
    if (piece.count == 0) return piece;
    out.put(piece.count);
    const std::byte* from = items_ + piece.first * map_.item_bytes;
    const bool fetched = fetched_by_worker(piece);
    out.put(fetched ? reinterpret_cast<std::uint64_t>(from) : std::uint64_t{0});
    if (fetched) {
      out.put(reinterpret_cast<std::uint64_t>(results_ + piece.first * map_.result_bytes));
      out.put(route_.boxes);
    } else {
      put_items(out, map_, piece);
    }
    return piece;
  }
  Piece skip() override { return cutter_.next(); }
  std::size_t reply_bytes(const Piece& piece) const override {
    return fetched_by_worker(piece) ? 0 : piece.count * map_.result_bytes;
  }
  void deliver(const Piece& piece, wire::Reader& reply, const PieceReport&) override {
    if (reply.remaining() == 0) return;  // the worker has put the results where they belong
    const std::size_t size = piece.count * map_.result_bytes;
    carry(results_ + piece.first * map_.result_bytes, reply.skip(size), size,
          map_.size * map_.result_bytes);
  }

 private:
  static constexpr std::uint64_t kPullEvery = 9;

  [[nodiscard]] bool fetched_by_worker(const Piece& piece) const noexcept {
    return route_.boxes != 0 ||
           (route_.pull && piece.first / cutter_.widest() % kPullEvery == kPullEvery - 1);
  }

  BulkInto map_;
  const std::byte* items_;
  std::byte* results_;
  BulkCutter cutter_;
  BulkRoute route_;
};

// The carriers for `map`; null where it has none: it is too small, runs again what was lost, or the
// workers share cpus; or there is no memory or thread for them.
std::unique_ptr<Carriers> carriers_for(const PoolCore& core, const BulkInto& map,
                                       const MapPlan& plan) {
  const std::uint64_t widest = larger(map.item_bytes, map.result_bytes);
  const std::uint64_t bytes = map.size * (map.item_bytes + map.result_bytes);
  const auto workers = static_cast<std::uint64_t>(core.workers());
  if (map.size * widest < kStreamBytes || bytes < workers * kWorthCarrier ||
      plan.chunk * widest < kLeastBoxBytes || plan.settings.retries > 0) {
    return nullptr;
  }
  const std::vector<int> cpus = core.own_cpus();
  if (cpus.empty()) return nullptr;
  const std::size_t items = larger(1, kBoxBytes / widest);
  try {
    return std::make_unique<Carriers>(cpus, items * map.item_bytes, items * map.result_bytes,
                                      map.size * map.result_bytes >= kStreamBytes);
  } catch (const std::exception&) {
    return nullptr;
  }
}

// FNV-1a.
std::uint64_t hash_of(std::string_view text) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return hash;
}

}  // namespace

JobContext::~JobContext() { writer_.revert(0); }

void ErrorJob::fail(const Piece&, const std::exception_ptr& error) {
  if (!error_) error_ = error;
}

void ErrorJob::finished() {
  prepare();
  try {
    if (!error_) {
      call_back();
    } else if (error_callback) {
      error_callback(error_);
    }
  } catch (...) {
    log_callback_failure(error_ ? "error_callback" : "callback");
  }
}

void run_job(PoolCore& core, const Ref<ErrorJob>& job, const Ref<JobContext>& context) {
  submit_job(core, job, context);
  wait_for_job(core, *job);
}

void submit_job(PoolCore& core, const Ref<Job>& job, const Ref<JobContext>& context) {
  job->keep_alive(context);
  core.submit(job, context ? context->bytes() : std::span<const std::byte>());
}

void wait_for_job(PoolCore& core, ErrorJob& job) {
  core.wait(job, {});
  if (job.error()) std::rethrow_exception(job.error());
}

JobSettings job_settings(const MapWishes& wishes, const EntryPoint& entry) {
  JobSettings made{.entry = entry.id,
                   .timeout = wishes.timeout,
                   .retries = wishes.retries,
                   .priority = wishes.priority,
                   .progress = wishes.progress,
                   .joblog = wishes.joblog,
                   .resume = wishes.resume};
  if (!wishes.joblog.empty()) made.signature = hash_of(entry.spelling);
  return made;
}

MapPlan plan_map(const PoolCore& core, const MapWishes& wishes, const EntryPoint& entry,
                 std::uint64_t size) {
  core.check_running();
  const int workers = core.workers();
  const std::uint64_t chunk =
      chunk_of(wishes.chunksize, size, workers, default_chunk(size, workers));
  const bool guided = wishes.chunksize.guided();
  MapPlan plan{job_settings(wishes, entry), chunk, Chunker(chunk, guided, workers)};
  plan.settings.total = size;
  plan.settings.chunk = guided ? std::uint64_t{1} << 63 | static_cast<unsigned>(workers) : chunk;
  return plan;
}

void run_bulk_map(PoolCore& core, const BulkMap& map, MapPlan&& plan,
                  const Ref<JobContext>& context) {
  run_job(core, make_ref<BulkMapJob>(std::move(plan.settings), map, plan.chunker), context);
}

void run_bulk_into(PoolCore& core, const BulkInto& map, MapPlan&& plan,
                   const Ref<JobContext>& context) {
  const std::unique_ptr<Carriers> carriers = carriers_for(core, map, plan);
  BulkRoute route;
  if (carriers) {
    route = {.boxes = carriers->boxes(), .widest = kBoxBytes};
  } else {
    route.pull = core.reaches_private_memory();
  }
  const auto job = make_ref<BulkIntoJob>(std::move(plan.settings), map, plan.chunker, route);
  if (carriers) job->taper(4 * static_cast<std::uint64_t>(core.workers()));
  run_job(core, job, context);
}

}  // namespace millrace::runtime
