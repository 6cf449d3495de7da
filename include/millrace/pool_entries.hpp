// What runs in the worker: the entry points that pool.hpp instantiates for each callable and type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <millrace/callable.hpp>
#include <millrace/errors.hpp>
#include <millrace/job.hpp>
#include <millrace/none.hpp>
#include <millrace/outcome.hpp>
#include <millrace/serialize.hpp>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace millrace::runtime {

/// An initializer with its arguments.
template <class F, class... A>
class StoredInitializer final : public Initializer {
 public:
  template <class G, class... B>
  explicit StoredInitializer(std::in_place_t, G&& f, B&&... arguments)
      : f_(std::forward<G>(f)), arguments_(std::forward<B>(arguments)...) {}
  // Braces: the members are taken in the order in which encode() put them.
  explicit StoredInitializer(wire::Reader& in)
      : f_(wire::take_callable<F>(in)), arguments_{wire::decode<A>(in)...} {}

  void call() override { (void)wire::call_tuple(f_, arguments_); }
  FunctionId encode(wire::Writer& out) const override {
    wire::put_callable(out, f_);
    out.end_session();
    std::apply([&](const A&... each) { (wire::encode(out, each), ...); }, arguments_);
    return id_of<&decode>();
  }

 private:
  static Ref<Initializer> decode(wire::Reader& in) { return make_ref<StoredInitializer>(in); }

  F f_;
  std::tuple<A...> arguments_;
};

/// `void` as a value.
template <class R>
using Valued = std::conditional_t<std::is_void_v<R>, NoneType, R>;

/// What a call's result arrives as: decayed, text as std::string; void stays void.
template <class R>
struct Arrival {
  using type = wire::travel_t<R>;
};
template <>
struct Arrival<void> {
  using type = void;
};
template <class F, class... A>
using arrival_t = typename Arrival<wire::invoke_result_t<F, A...>>::type;

/// Calls f on one item and gives its value, None for void.
struct CallItem {
  template <class F, class V>
  static auto call(F& f, V& item) {
    if constexpr (std::is_void_v<wire::invoke_result_t<F, V>>) {
      wire::call(f, item);
      return None;
    } else {
      return arrival_t<F, V>(wire::call(f, item));
    }
  }
};

/// Calls f with the elements of one tuple-like item.
struct CallUnpacked {
  template <class F, class Tuple>
  static auto call(F& f, Tuple& items) {
    return std::apply(
        [&f](auto&... each) {
          if constexpr (std::is_void_v<
                            wire::invoke_result_t<F, std::remove_reference_t<decltype(each)>...>>) {
            wire::call(f, each...);
            return None;
          } else {
            return arrival_t<F, std::remove_reference_t<decltype(each)>...>(wire::call(f, each...));
          }
        },
        items);
  }
};

template <class Caller, class F, class V>
using ItemResult = std::decay_t<decltype(Caller::call(std::declval<F&>(), std::declval<V&>()))>;

/// The callable of a job, decoded once per worker and job and copied for each piece, so that a
/// callable that changes itself starts afresh with every piece, as a pickled one does.
template <class F>
F job_callable(std::span<const std::byte> context, std::uint64_t job) {
  if constexpr (std::is_trivially_copyable_v<F>) {
    wire::Reader reader(context.data(), context.size());
    return wire::unpack<F>(reader);
  } else {
    static thread_local std::optional<std::pair<std::uint64_t, F>> cached;
    if (!cached || cached->first != job) {
      wire::Reader reader(context.data(), context.size());
      cached.reset();
      cached.emplace(job, wire::unpack<F>(reader));
    }
    return cached->second;
  }
}

/// Encodes a result; what its serialiser throws becomes MaybeEncodingError.
template <class R>
void put_result(wire::Writer& out, const R& result) {
  if constexpr (wire::kBitwise<R>) {
    wire::encode(out, result);
  } else {
    try {
      wire::encode(out, result);
    } catch (const std::exception& error) {
      throw MaybeEncodingError(std::string("the result could not be serialised: ") + error.what());
    }
  }
}

/// apply: callable and arguments in the payload, one result in the reply.
template <class F, class... A>
struct ApplyEntry {
  static void run(TaskCall& task) {
    F f = wire::unpack<F>(task.in);
    std::tuple<A...> arguments{wire::decode<A>(task.in)...};
    std::apply(
        [&](A&... each) {
          if constexpr (std::is_void_v<wire::invoke_result_t<F, A...>>) {
            wire::call(f, each...);
          } else {
            put_result(task.out, arrival_t<F, A...>(wire::call(f, each...)));
          }
        },
        arguments);
  }
};

/// map over encoded items: {count, items...} -> {results...}. The first throw ends the piece.
template <class Caller, class F, class V>
struct MapEntry {
  static void run(TaskCall& task) {
    F f = job_callable<F>(task.context, task.job);
    const auto count = task.in.template take<std::uint64_t>();
    for (std::uint64_t i = 0; i < count; ++i) {
      V item = wire::decode<V>(task.in);
      put_result(task.out, Caller::call(f, item));
    }
  }
};

/// map and imap where every item runs: {count, items...} -> {ok, facts, result or exception}...
template <class Caller, class F, class V>
struct OutcomeEntry {
  static void run(TaskCall& task) {
    F f = job_callable<F>(task.context, task.job);
    const auto count = task.in.template take<std::uint64_t>();
    for (std::uint64_t i = 0; i < count; ++i) {
      V item = wire::decode<V>(task.in);
      const std::int64_t start = now_ns();
      const std::size_t before = task.out.size();
      std::exception_ptr error;
      try {
        const auto result = Caller::call(f, item);
        put_facts(task.out, 1, start);
        put_result(task.out, result);
      } catch (...) {
        error = item_error();  // rethrows what ends a process
      }
      if (error) {
        task.out.revert(before);
        put_facts(task.out, 0, start);
        put_exception(task.out, error);
      }
    }
  }

 private:
  static void put_facts(wire::Writer& out, std::uint8_t ok, std::int64_t start) {
    out.put(ok);
    out.put(now_ns() - start);
    out.put(std::int32_t{current_cpu()});
  }
};

/// One item of an OutcomeEntry's reply.
template <class R>
Outcome<R> take_outcome(wire::Reader& reply, pid_t pid) {
  const auto ok = reply.take<std::uint8_t>();
  const auto duration = reply.take<std::int64_t>();
  const auto cpu = reply.take<std::int32_t>();
  const typename Outcome<R>::Facts facts{pid, cpu, std::chrono::nanoseconds(duration)};
  if (ok != 0) return Outcome<R>(wire::decode<R>(reply), facts);
  return Outcome<R>(take_exception(reply), facts);
}

/// Applies f to `count` contiguous items that may lie anywhere; results likewise.
template <class Caller, class F, class V, class R>
void run_bulk(F& f, const std::byte* in, std::byte* out, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    V item;
    std::memcpy(static_cast<void*>(&item), in + i * sizeof(V), sizeof(V));
    const R result = Caller::call(f, item);
    std::memcpy(out + i * sizeof(R), &result, sizeof(R));
  }
}

/// map over bytes: {count, raw items} -> {raw results}.
template <class Caller, class F, class V>
struct BulkEntry {
  using R = ItemResult<Caller, F, V>;
  static void run(TaskCall& task) {
    F f = job_callable<F>(task.context, task.job);
    const auto count = task.in.template take<std::uint64_t>();
    const std::byte* items = task.in.skip(count * sizeof(V));
    std::byte* results = task.reply_room(task, count * sizeof(R));
    if (results == nullptr) results = task.out.extend(count * sizeof(R));
    run_bulk<Caller, F, V, R>(f, items, results, count);
  }
};

/// map over items that lie in the arena: {count, address} -> {raw results}.
template <class Caller, class F, class V>
struct BulkInPlaceEntry {
  using R = ItemResult<Caller, F, V>;
  static void run(TaskCall& task) {
    F f = job_callable<F>(task.context, task.job);
    const auto count = task.in.template take<std::uint64_t>();
    const auto* items = reinterpret_cast<const std::byte*>(task.in.template take<std::uint64_t>());
    std::byte* results = task.reply_room(task, count * sizeof(R));
    if (results == nullptr) results = task.out.extend(count * sizeof(R));
    run_bulk<Caller, F, V, R>(f, items, results, count);
  }
};

/// reduce: {count, items...} -> {combination of f over the items, in order}.
template <class F, class Combine, class V, class T>
struct ReduceEntry {
  static void run(TaskCall& task) {
    wire::Reader reader(task.context.data(), task.context.size());
    F f = wire::unpack<F>(reader);
    Combine combine = wire::unpack<Combine>(reader);
    const auto count = task.in.template take<std::uint64_t>();
    const auto bulk = task.in.template take<std::uint8_t>();
    const std::byte* items = nullptr;
    if (bulk != 0) {
      const auto address = task.in.template take<std::uint64_t>();
      items = address != 0 ? reinterpret_cast<const std::byte*>(address)
                           : task.in.skip(count * sizeof(V));
    }
    std::optional<T> total;
    for (std::uint64_t i = 0; i < count; ++i) {
      V item = next(task, items, i);
      if (total) {
        total = combine(*std::move(total), T(wire::call(f, item)));
      } else {
        total.emplace(wire::call(f, item));
      }
    }
    put_result(task.out, *total);
  }

 private:
  static V next(TaskCall& task, const std::byte* items, std::uint64_t i) {
    if constexpr (std::is_trivially_copyable_v<V> && std::is_default_constructible_v<V>) {
      if (items != nullptr) {
        V item;
        std::memcpy(static_cast<void*>(&item), items + i * sizeof(V), sizeof(V));
        return item;
      }
    }
    return wire::decode<V>(task.in);
  }
};

/// The context of map_into: where input and output lie, before the callable.
struct IntoPlace {
  std::uint64_t in = 0;
  std::uint64_t out = 0;
};

/// map_into over arrays in the arena: nothing is copied.
template <class F, class V, class R>
struct MapIntoEntry {
  static void run(const RangeItems& items) {
    IntoPlace place;
    std::memcpy(&place, items.context.data(), sizeof place);
    F f = job_callable<F>(items.context.subspan(sizeof place), items.job);
    // Typed pointers, not bytes: the compiler vectorises as for a plain loop.
    V* in = reinterpret_cast<V*>(place.in);
    R* out = reinterpret_cast<R*>(place.out);
    for (std::uint64_t i = items.first; i < items.last; ++i) {
      V item = in[i];
      out[i] = static_cast<R>(wire::call(f, item));
    }
  }
};

/// Where a piece's items are, and its results go, that a thread of the parent carries.
struct CarriedPiece {
  const std::byte* in;
  std::byte* out;
};

/// In a worker: has the parent's thread beside it bring [from, from + bytes). Blocks until then.
CarriedPiece carry_in(std::uint64_t boxes, std::uint64_t from, std::size_t bytes) noexcept;
/// In a worker: has it take the results of that piece to `to`, at the latest when the call ends.
void carry_out(std::uint64_t boxes, std::uint64_t to, std::size_t bytes) noexcept;

/// map_into over the parent's private memory: {count, 0, raw items} -> {raw results}, or
/// {count, address of items, address of results, boxes} -> nothing: a thread of the parent carries
/// both through its box, or, where `boxes` is 0, the worker fetches and puts back.
template <class F, class V, class R>
struct BulkIntoEntry {
  static void run(TaskCall& task) {
    F f = job_callable<F>(task.context, task.job);
    const auto count = task.in.template take<std::uint64_t>();
    const auto from = task.in.template take<std::uint64_t>();
    if (from != 0) {
      const auto to = task.in.template take<std::uint64_t>();
      const auto boxes = task.in.template take<std::uint64_t>();
      return boxes != 0 ? carried(f, count, {boxes, from, to}) : pull(f, count, from, to);
    }
    const std::byte* items = task.in.skip(count * sizeof(V));
    std::byte* results = task.reply_room(task, count * sizeof(R));
    if (results == nullptr) results = task.out.extend(count * sizeof(R));
    convert(f, items, results, count);
  }

 private:
  static void convert(F& f, const std::byte* in, std::byte* out, std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) {
      V item;
      std::memcpy(static_cast<void*>(&item), in + i * sizeof(V), sizeof(V));
      const R result = static_cast<R>(wire::call(f, item));
      std::memcpy(out + i * sizeof(R), &result, sizeof(R));
    }
  }
  struct Way {
    std::uint64_t boxes, from, to;
  };
  static void carried(F& f, std::uint64_t count, const Way& way) {
    const CarriedPiece piece = carry_in(way.boxes, way.from, count * sizeof(V));
    convert(f, piece.in, piece.out, count);
    carry_out(way.boxes, way.to, count * sizeof(R));
  }
  static void pull(F& f, std::uint64_t count, std::uint64_t from, std::uint64_t to) {
    static thread_local std::vector<std::byte> memory;
    memory.resize(count * (sizeof(V) + sizeof(R)));
    std::byte* in = memory.data();
    std::byte* out = in + count * sizeof(V);
    read_parent(in, from, count * sizeof(V));
    convert(f, in, out, count);
    write_parent(out, to, count * sizeof(R));
  }
};

/// parallel_for: f(i), or f(first, last) once per chunk.
template <class F>
struct ParallelForEntry {
  static void run(const RangeItems& items) {
    F f = job_callable<F>(items.context, items.job);
    if constexpr (std::is_invocable_v<F&, std::size_t, std::size_t>) {
      f(static_cast<std::size_t>(items.first), static_cast<std::size_t>(items.last));
    } else {
      for (std::uint64_t i = items.first; i < items.last; ++i) f(static_cast<std::size_t>(i));
    }
  }
};

/// A worker's entry point, and its spelling: two jobs with one spelling do the same.
struct EntryPoint {
  FunctionId id = 0;
  const char* spelling = "";
};

/// The entry point, found once per instantiation.
template <class Entry>
EntryPoint entry_point() {
  static const FunctionId id = function_id(reinterpret_cast<AnyFunction>(&Entry::run));
  return {id, __PRETTY_FUNCTION__};
}

}  // namespace millrace::runtime
