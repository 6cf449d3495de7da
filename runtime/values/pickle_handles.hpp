// Handles in pickles: what stands for them there, for those types that another program can use.
#pragma once

#include <cstdint>
#include <millrace/object.hpp>
#include <millrace/timeout.hpp>
#include <optional>
#include <string_view>
#include <vector>

namespace millrace::runtime {

/// How handles of one type are pickled. Entries live for ever.
struct HandlePickler {
  std::string_view type;                   // as HandleOps::type
  Object (*reduce)(const Object& handle);  // what to pickle instead; throws TypeError
  const HandlePickler* next = nullptr;
};
/// For static initialisers and later.
void add_handle_pickler(HandlePickler& entry) noexcept;

/// What all handles of one pickle share.
struct HandleArrival {
  std::optional<Timeout::Clock::time_point> until;  ///< to fetch them; set by the first
};

/// How values that CPython makes by calling `name` become handles again.
struct HandleRebuilder {
  std::string_view name;
  // Gives `made` back where it is none after all.
  Object (*rebuild)(Object made, HandleArrival& arrival);
  const HandleRebuilder* next = nullptr;
};
void add_handle_rebuilder(HandleRebuilder& entry) noexcept;

/// While it exists, what this thread's picklers leave behind for the reader of a pickle is taken
/// back in the end, unless it is to stay: a message that was not sent leaves nothing.
class DepartingHandles {
 public:
  DepartingHandles() noexcept;
  DepartingHandles(const DepartingHandles&) = delete;
  DepartingHandles& operator=(const DepartingHandles&) = delete;
  ~DepartingHandles();
  void stay() noexcept { left_.clear(); }

  /// For picklers: `undo(key)` takes it back. Throws std::bad_alloc, having called that.
  static void add(void (*undo)(std::uint64_t key) noexcept, std::uint64_t key);

 private:
  struct Left {
    void (*undo)(std::uint64_t key) noexcept;
    std::uint64_t key;
  };

  DepartingHandles* const before_;
  std::vector<Left> left_;
};

/// Throws TypeError for a handle that means nothing to another program.
Object python_of_handle(const Object& handle);
/// The handle that a made value stands for, or the value itself.
Object handle_of_python(Object made, HandleArrival& arrival);

}  // namespace millrace::runtime
