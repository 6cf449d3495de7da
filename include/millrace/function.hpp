// Functions by name instead of address: what lets a process run code that another process of the
// same program chose, although their modules may be loaded elsewhere, later, or not yet.
//
// A function is {build-id of its module, offset in it}. The pairs live in an append-only table in
// the arena; a FunctionId is a place in that table and means the same in every process.
#pragma once

#include <cstddef>
#include <cstdint>

namespace millrace::runtime {

/// A place in the program's function table; 0 is no function.
using FunctionId = std::uint32_t;

/// Any function's address, to be cast back to its own type before the call.
using AnyFunction = void (*)();

/// The id of a function of this process, entered in the table on first use (its module is then
/// never unloaded); a null pointer has id 0. Later calls are one lookup in a process-local cache.
/// Thread-safe. Throws std::runtime_error, naming the module and the remedy, for a function
/// outside every module or in one that was linked without a build-id.
FunctionId function_id(AnyFunction function);

/// The function with this id, in any process of the program: its module is found by build-id and
/// opened if it is not loaded yet. Thread-safe, cached. Throws std::runtime_error naming the module
/// when it cannot be had, Corrupt for an id that was never given out.
AnyFunction resolve_function(FunctionId id);

/// The id of one function known at compile time, looked up once per process.
template <auto* Function>
FunctionId id_of() {
  static const FunctionId id = function_id(reinterpret_cast<AnyFunction>(Function));
  return id;
}

/// Memory in the arena (64-byte aligned) that any process may free.
/// Throws std::system_error when there is none.
void* arena_allocate(std::size_t bytes);
/// Gives back what arena_allocate() returned, in whichever process.
void arena_deallocate(void* block) noexcept;

/// True for an address inside this process's private memory: heap, stacks, globals and code. The
/// arena and other shared mappings are not private. May enter the kernel.
bool is_private_address(const void* address) noexcept;

/// Looks at every aligned word of a callable that is about to be copied byte by byte. Throws
/// TypeError, naming mp::partial, the word and the callable's type, when one holds an address of
/// this process's private memory or of the callable itself.
/// \param object the copy that will be read by other processes, `bytes` long.
/// \param type_name the callable's type, for the message; not zero-terminated.
void check_captures(const void* object, std::size_t bytes, const char* type_name,
                    std::size_t type_name_bytes);

}  // namespace millrace::runtime
