// SharedMemory: one object in the arena per segment made or opened, one mapping a process.
//
// The object says which file the segment is; a table of this process says where it is mapped and
// how many handles lie in this process's own memory. Handles in the arena (a callable's copy) count
// nowhere: what they map stays until close() or the end of the process.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <millrace/errors.hpp>
#include <millrace/shared_memory.hpp>
#include <mutex>
#include <string_view>
#include <system_error>
#include <unordered_map>

#include "runtime/base/fork_mutex.hpp"
#include "runtime/base/random.hpp"
#include "runtime/base/utf8.hpp"
#include "runtime/segments/segment.hpp"
#include "runtime/sync/synchronize.hpp"
#include "shm/arena.hpp"
#include "shm/immortal.hpp"

namespace millrace {
namespace {

using runtime::Segment;

// Written before the object is shared, then constant.
struct Record {
  runtime::SegmentIdentity identity;
  std::uint64_t bytes;
  std::uint64_t serial;  // tells this object from a later one at the same address
  std::array<char, runtime::kSegmentNameBytes> name;
};

struct Mapping {
  std::uint64_t serial = 0;
  std::span<std::byte> memory{};  // empty: not mapped
  bool closed = false;
  long handles = 0;  // in this process's own memory
};

struct Mappings {
  // Guards `by_object`. Of the names' level: no other lock is taken inside, nor it inside another.
  runtime::ForkMutex mutex{runtime::ForkMutex::Level::names};
  std::unordered_map<const void*, Mapping> by_object;
};

// Never destroyed: handles of static storage are.
Mappings& mappings() {
  static shm::Immortal<Mappings> instance;
  return *instance;
}
[[maybe_unused]] const Mappings& g_made_before_threads = mappings();

const Record& record_of(const shm::ObjectRef& object) {
  return runtime::payload_of<const Record>(object, "SharedMemory");
}

// The entry of an object; one left over from an earlier object at its address is emptied.
Mapping& entry_of(Mappings& all, const shm::ObjectRef& object) {
  Mapping& entry = all.by_object[object.payload()];
  const std::uint64_t serial = record_of(object).serial;
  if (entry.serial != serial) {
    runtime::unmap_segment(entry.memory);
    entry = {};
    entry.serial = serial;
  }
  return entry;
}

Segment open_again(const Record& record) {
  Segment segment = runtime::open_segment(record.name.data());
  if (segment.identity == record.identity && segment.memory.size() >= record.bytes) return segment;
  runtime::unmap_segment(segment.memory);
  throw std::system_error(ENOENT, std::generic_category(),
                          "shared memory '" + segment.name + "': the name means another segment");
}

std::span<std::byte> mapped(Mapping& entry, const Record& record) {
  if (entry.memory.empty()) entry.memory = open_again(record).memory;
  return entry.memory.first(record.bytes);
}

bool counts(const shm::ObjectRef& object, const void* holder) noexcept {
  return object.payload() != nullptr && !shm::Arena::contains(holder);
}

// One handle more in this process. The first one maps the segment while it still has its name;
// whether that went well is told by buf().
void count(const shm::ObjectRef& object, const void* holder) {
  if (!counts(object, holder)) return;
  Mappings& all = mappings();
  const std::lock_guard guard(all.mutex);
  Mapping& entry = entry_of(all, object);
  if (entry.handles == 0 && !entry.closed && entry.memory.empty()) {
    try {
      mapped(entry, record_of(object));
    } catch (const std::exception&) {
      // buf() tries again and says why
    }
  }
  ++entry.handles;
}

void discount(const shm::ObjectRef& object, const void* holder) noexcept {
  if (!counts(object, holder)) return;
  Mappings& all = mappings();
  const std::lock_guard guard(all.mutex);
  const auto found = all.by_object.find(object.payload());
  if (found == all.by_object.end() || --found->second.handles > 0) return;
  runtime::unmap_segment(found->second.memory);
  all.by_object.erase(found);
}

// A handle has moved.
void recount(const shm::ObjectRef& object, const void* from, const void* to) noexcept {
  if (counts(object, from) == counts(object, to)) return;
  try {
    count(object, to);
  } catch (const std::bad_alloc&) {
    // not counted: the segment is closed one handle too early, and buf() opens it again
  }
  discount(object, from);
}

std::uint64_t new_serial() {
  std::uint64_t serial = 0;
  runtime::fill_random(&serial, sizeof serial);
  return serial | 1;
}

Segment make_or_open(const SharedMemoryOptions& options) {
  if (options.size.bytes() < 0) {
    throw ValueError("SharedMemory: size must not be negative, it is " +
                     std::to_string(options.size.bytes()));
  }
  if (options.create && options.size.bytes() == 0) {
    throw ValueError("SharedMemory: a new segment needs a size other than 0");
  }
  if (!options.create && !options.name) {
    throw ValueError("SharedMemory: a name is needed to open a segment");
  }
  if (!options.create) return runtime::open_segment(*options.name);
  return runtime::create_segment(options.name, static_cast<std::size_t>(options.size.bytes()),
                                 options.track);
}

// The object and this process's entry for it, which takes the mapping over.
shm::ObjectRef adopt(const Segment& segment) {
  shm::ObjectRef object = runtime::make_object<SharedMemory>(sizeof(Record));
  auto& record = *::new (object.payload()) Record{};
  record.identity = segment.identity;
  record.bytes = segment.memory.size();
  record.serial = new_serial();
  segment.name.copy(record.name.data(), record.name.size() - 1);
  Mappings& all = mappings();
  const std::lock_guard guard(all.mutex);
  entry_of(all, object).memory = segment.memory;
  return object;
}

shm::ObjectRef object_for(const SharedMemoryOptions& options) {
  const Segment segment = make_or_open(options);
  try {
    return adopt(segment);
  } catch (...) {
    runtime::unmap_segment(segment.memory);
    if (options.create) runtime::unlink_segment(segment.name, segment.identity);
    throw;
  }
}

}  // namespace

SharedMemory::SharedMemory(const SharedMemoryOptions& options) : SharedHandle(object_for(options)) {
  count(object(), this);
}

SharedMemory::SharedMemory(shm::Existing, shm::ObjectRef object) : SharedHandle(std::move(object)) {
  if (this->object().payload() == nullptr) return;
  {
    Mappings& all = mappings();
    const std::lock_guard guard(all.mutex);
    Mapping& entry = entry_of(all, this->object());
    try {
      mapped(entry, record_of(this->object()));
      entry.closed = false;
    } catch (...) {
      if (entry.handles == 0) all.by_object.erase(this->object().payload());
      throw;
    }
  }
  count(this->object(), this);
}

SharedMemory::SharedMemory(const SharedMemory& other) : SharedHandle(other) {
  count(object(), this);
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept : SharedHandle(std::move(other)) {
  recount(object(), &other, this);
}

SharedMemory& SharedMemory::operator=(const SharedMemory& other) {
  if (*this == other) return *this;
  count(other.object(), this);
  discount(object(), this);
  SharedHandle::operator=(other);
  return *this;
}

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  if (this == &other) return *this;
  discount(object(), this);
  SharedHandle::operator=(std::move(other));
  recount(object(), &other, this);
  return *this;
}

SharedMemory::~SharedMemory() { discount(object(), this); }

std::span<std::byte> SharedMemory::memory() const {
  const Record& record = record_of(object());
  Mappings& all = mappings();
  const std::lock_guard guard(all.mutex);
  Mapping& entry = entry_of(all, object());
  if (entry.closed) {
    throw ValueError("shared memory '" + std::string(record.name.data()) + "' is closed");
  }
  return mapped(entry, record);
}

std::string SharedMemory::name() const { return record_of(object()).name.data(); }

std::size_t SharedMemory::size() const { return record_of(object()).bytes; }

void SharedMemory::close() const {
  Mappings& all = mappings();
  const std::lock_guard guard(all.mutex);
  Mapping& entry = entry_of(all, object());
  runtime::unmap_segment(std::exchange(entry.memory, {}));
  entry.closed = true;
}

void SharedMemory::unlink() const {
  const Record& record = record_of(object());
  runtime::unlink_segment(record.name.data(), record.identity);
}

std::string SharedMemory::repr() const {
  std::string text = "SharedMemory(";
  runtime::put_text_repr(text, name());
  return text + ", size=" + std::to_string(size()) + ")";
}

SharedMemoryManager::SharedMemoryManager(SharedMemoryManager&& other) noexcept
    : state_(std::exchange(other.state_, State::shut_down)),
      owner_(other.owner_),
      segments_(std::move(other.segments_)) {}

SharedMemoryManager& SharedMemoryManager::operator=(SharedMemoryManager&& other) noexcept {
  if (this == &other) return *this;
  shutdown();
  state_ = std::exchange(other.state_, State::shut_down);
  owner_ = other.owner_;
  segments_ = std::move(other.segments_);
  return *this;
}

SharedMemoryManager::~SharedMemoryManager() { shutdown(); }

void SharedMemoryManager::start() {
  if (state_ == State::started) throw ProcessError("SharedMemoryManager: already started server");
  if (state_ == State::shut_down) throw ProcessError("SharedMemoryManager has shut down");
  owner_ = ::getpid();
  state_ = State::started;
}

void SharedMemoryManager::check_started() const {
  if (state_ == State::initial) throw ValueError("SharedMemoryManager must be started first");
  if (state_ == State::shut_down) throw ValueError("SharedMemoryManager has shut down");
}

SharedMemory SharedMemoryManager::SharedMemory(SegmentSize size) {
  check_started();
  segments_.reserve(segments_.size() + 1);
  const millrace::SharedMemory made({.create = true, .size = size});
  segments_.push_back(made);
  return made;
}

ShareableList SharedMemoryManager::ShareableList(std::initializer_list<Object> items) {
  return keep([&] { return millrace::ShareableList(items); });
}

void SharedMemoryManager::shutdown() noexcept {
  state_ = State::shut_down;
  if (owner_ == ::getpid()) {
    for (const millrace::SharedMemory& each : segments_) {
      try {
        each.unlink();
      } catch (const std::exception&) {
        // unlinked by somebody else
      }
    }
  }
  segments_.clear();
}

}  // namespace millrace
