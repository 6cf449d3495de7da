#include <algorithm>
#include <limits>
#include <millrace/errors.hpp>
#include <millrace/serialize.hpp>
#include <new>
#include <string>

namespace millrace::wire {

void throw_short_message(std::size_t wanted, std::size_t left) {
  throw Corrupt("a message ends early: " + std::to_string(wanted) +
                " more bytes or elements were announced, " + std::to_string(left) +
                " bytes are left");
}

void throw_corrupt(const char* what) {
  throw Corrupt(std::string("a message is damaged: ") + what + " is out of range");
}

void throw_too_deep() {
  throw ValueError("a value nested more than " + std::to_string(kMaxDepth) +
                   " levels deep cannot travel to another process; flatten it, for instance a "
                   "linked list to a std::vector");
}

Writer::~Writer() {
  delete session_;
  ::operator delete(heap_);
}

void Writer::append(Writer& other) {
  const std::size_t offset = size();
  kept_.reserve(kept_.size() + other.kept_.size());
  write(other.data(), other.size());
  for (const Kept& one : other.kept_) kept_.push_back({offset + one.offset, one.drop, one.holds});
  other.clear();
}

void Writer::clear() noexcept {
  end_session();
  kept_.clear();
  depth_ = 0;
  cursor_ = begin_;
}

void Writer::revert(std::size_t size) noexcept {
  end_session();
  while (!kept_.empty() && kept_.back().offset >= size) {
    // A reference noted but not yet written is still its maker's to give back.
    if (kept_.back().offset < this->size()) kept_.back().drop(begin_ + kept_.back().offset);
    kept_.pop_back();
  }
  if (size == 0) {
    clear();
  } else {
    cursor_ = begin_ + size;
  }
}

void Writer::grow(std::size_t more) {
  constexpr std::size_t kFirst = 256;
  const std::size_t used = size();
  if (more > std::numeric_limits<std::size_t>::max() / 2 - used) throw std::bad_alloc();
  const std::size_t capacity =
      std::max({kFirst, used + more, 2 * static_cast<std::size_t>(end_ - begin_)});
  auto* const block = static_cast<std::byte*>(::operator new(capacity));
  if (used != 0) std::memcpy(block, begin_, used);
  ::operator delete(heap_);
  heap_ = block;
  rebase(block, block + used, block + capacity);
}

}  // namespace millrace::wire
