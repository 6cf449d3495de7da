// Equality, order and hashes, as Python's.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "runtime/values/object_node.hpp"
#include "runtime/values/object_table.hpp"

namespace millrace {
namespace runtime {
namespace {

using Kind = ValueKind;

bool is_number(Kind kind) noexcept {
  return kind == Kind::boolean || kind == Kind::integer || kind == Kind::real ||
         kind == Kind::complex;
}
bool is_text_kind(Kind kind) noexcept { return kind == Kind::short_text || kind == Kind::text; }
bool is_run_kind(Kind kind) noexcept { return kind == Kind::bytes || kind == Kind::bytearray; }
bool is_set_kind(Kind kind) noexcept { return kind == Kind::set || kind == Kind::frozenset; }

constexpr double kTwo63 = 9223372036854775808.0;

// -1, 0, 1; 2 for a NaN. Exact: no int is rounded to a double.
int compare_to_real(std::int64_t a, double b) noexcept {
  if (std::isnan(b)) return 2;
  if (b >= kTwo63) return -1;
  if (b < -kTwo63) return 1;
  const auto whole = static_cast<std::int64_t>(b);
  if (a != whole) return a < whole ? -1 : 1;
  const double rest = b - static_cast<double>(whole);
  return rest == 0 ? 0 : rest > 0 ? -1 : 1;
}

int compare_reals(const Object& a, const Object& b) noexcept {
  const bool real_a = Access::kind(a) == Kind::real;
  const bool real_b = Access::kind(b) == Kind::real;
  if (real_a && real_b) {
    const double x = Access::real(a);
    const double y = Access::real(b);
    return x == y ? 0 : x < y ? -1 : x > y ? 1 : 2;
  }
  if (real_b) return compare_to_real(Access::integer(a), Access::real(b));
  if (real_a) {
    const int other = compare_to_real(Access::integer(b), Access::real(a));
    return other == 2 ? 2 : -other;
  }
  const std::int64_t x = Access::integer(a);
  const std::int64_t y = Access::integer(b);
  return x == y ? 0 : x < y ? -1 : 1;
}

bool equal_numbers(const Object& a, const Object& b) noexcept {
  const bool complex_a = Access::kind(a) == Kind::complex;
  const bool complex_b = Access::kind(b) == Kind::complex;
  if (!complex_a && !complex_b) return compare_reals(a, b) == 0;
  if (!complex_a) return equal_numbers(b, a);
  const auto* const x = Access::node<ComplexNode>(a);
  if (complex_b) {
    const auto* const y = Access::node<ComplexNode>(b);
    return x->real == y->real && x->imaginary == y->imaginary;
  }
  return x->imaginary == 0 && compare_reals(object_of_real(x->real), b) == 0;
}

bool equal_items(const Object& a, const Object& b, int depth) {
  const auto x = Access::node<ItemsNode>(a)->span();
  const auto y = Access::node<ItemsNode>(b)->span();
  return std::equal(x.begin(), x.end(), y.begin(), y.end(),
                    [depth](const auto& p, const auto& q) { return same(p, q, depth + 1); });
}

bool equal_tables(const Object& a, const Object& b, int depth) {
  auto& x = *Access::node<TableNode>(a);
  auto& y = *Access::node<TableNode>(b);
  if (x.live != y.live) return false;
  return std::ranges::all_of(x.span(), [&](const TableEntry& each) {
    if (each.hash == TableEntry::kHole) return true;
    const std::uint32_t place = find_place(y, each.key, each.hash);
    return place != kNoPlace && same(each.value, y.entries[place].value, depth + 1);
  });
}

bool equal_handles(const Object& a, const Object& b) {
  auto& x = *Access::node<HandleNode>(a);
  auto& y = *Access::node<HandleNode>(b);
  return x.ops->type == y.ops->type && x.ops->equal(x.handle(), y.handle());
}

bool equal_nodes(const Object& a, const Object& b, int depth) {
  switch (Access::kind(a)) {
    case Kind::list:
    case Kind::tuple:
    case Kind::slice:
    case Kind::global:
    case Kind::instance:
      return equal_items(a, b, depth);
    case Kind::dict:
      return equal_tables(a, b, depth);
    case Kind::range:
      return Access::node<RangeNode>(a)->range == Access::node<RangeNode>(b)->range;
    case Kind::handle:
      return equal_handles(a, b);
    default:
      return false;  // exceptions: only themselves
  }
}

// Python's hash of a number: its residue modulo 2^61 - 1, so that equal numbers agree.
constexpr std::uint64_t kModulus = (std::uint64_t{1} << 61) - 1;

std::uint64_t signed_hash(bool negative, std::uint64_t residue) noexcept {
  const std::uint64_t hash = negative ? ~residue + 1 : residue;
  return hash == ~std::uint64_t{0} ? hash - 1 : hash;  // -1 is no hash in Python
}

std::uint64_t hash_integer(std::int64_t value) noexcept {
  const bool negative = value < 0;
  const std::uint64_t size =
      negative ? ~static_cast<std::uint64_t>(value) + 1 : static_cast<std::uint64_t>(value);
  return signed_hash(negative, size % kModulus);
}

std::uint64_t hash_real(double value) noexcept {
  if (std::isnan(value)) return std::bit_cast<std::uint64_t>(value);
  if (std::isinf(value)) return value > 0 ? 314159 : static_cast<std::uint64_t>(-314159);
  int exponent = 0;
  double fraction = std::frexp(std::fabs(value), &exponent);
  std::uint64_t residue = 0;
  while (fraction != 0) {  // 28 bits at a time, at most twice
    residue = ((residue << 28) & kModulus) | residue >> 33;
    fraction *= 268435456.0;
    exponent -= 28;
    const auto whole = static_cast<std::uint64_t>(fraction);
    fraction -= static_cast<double>(whole);
    residue += whole;
    if (residue >= kModulus) residue -= kModulus;
  }
  const int shift = ((exponent % 61) + 61) % 61;
  residue = ((residue << shift) & kModulus) | (shift == 0 ? 0 : residue >> (61 - shift));
  return signed_hash(value < 0, residue);
}

std::uint64_t hash_items(const Object& value, int depth) {
  std::uint64_t hash = 0x51ed270b * Access::node<ItemsNode>(value)->size;
  for (const Object& each : Access::node<ItemsNode>(value)->span()) {
    hash = stir(hash + hash_of(each, depth + 1));
  }
  return hash;
}

std::uint64_t hash_range(const Range& range) {
  const std::uint64_t size = range.size();
  std::uint64_t hash = stir(size);
  if (size > 0) hash = stir(hash + static_cast<std::uint64_t>(range.start()));
  if (size > 1) hash = stir(hash + static_cast<std::uint64_t>(range.step()));
  return hash;
}

std::uint64_t hash_handle(const Object& value) noexcept {
  auto& node = *Access::node<HandleNode>(value);
  std::uint64_t identity = 0;  // a handle is one pointer to what it refers to
  if (node.ops->bytes == sizeof identity) std::memcpy(&identity, node.handle(), sizeof identity);
  return stir(identity);
}

std::uint64_t hash_of_node(const Object& value, int depth) {
  switch (Access::kind(value)) {
    case Kind::tuple:
    case Kind::global:
    case Kind::instance:
      return hash_items(value, depth);
    case Kind::frozenset: {
      std::uint64_t hash = Access::node<TableNode>(value)->live;  // any order: a sum
      for (const TableEntry& each : Access::node<TableNode>(value)->span()) {
        if (each.hash != TableEntry::kHole) hash += stir(each.hash);
      }
      return hash;
    }
    case Kind::complex: {
      const auto* const node = Access::node<ComplexNode>(value);
      const std::uint64_t real = hash_real(node->real);  // equal to its real part's without another
      return node->imaginary == 0 ? real : stir(real + stir(hash_real(node->imaginary)));
    }
    case Kind::range:
      return hash_range(Access::node<RangeNode>(value)->range);
    case Kind::exception:
      return stir(reinterpret_cast<std::uintptr_t>(Access::node(value)));
    case Kind::handle:
      return hash_handle(value);
    default:
      throw TypeError("unhashable type: '" + std::string(kind_name(Access::kind(value))) + "'");
  }
}

// Whether the first pair of elements that differ is in order, else the shorter first.
bool less_items(const Object& a, const Object& b) {
  const auto x = Access::node<ItemsNode>(a)->span();
  const auto y = Access::node<ItemsNode>(b)->span();
  const auto [p, q] =
      std::ranges::mismatch(x, y, [](const auto& m, const auto& n) { return same(m, n); });
  if (p == x.end() || q == y.end()) return x.size() < y.size();
  return *p < *q;
}

bool is_proper_subset(const Object& a, const Object& b) {
  auto& x = *Access::node<TableNode>(a);
  auto& y = *Access::node<TableNode>(b);
  return x.live < y.live && std::ranges::all_of(x.span(), [&y](const TableEntry& each) {
           return each.hash == TableEntry::kHole || find_place(y, each.key, each.hash) != kNoPlace;
         });
}

}  // namespace

bool equal(const Object& a, const Object& b, int depth) {
  const Kind x = Access::kind(a);
  const Kind y = Access::kind(b);
  if (is_number(x) && is_number(y)) return equal_numbers(a, b);
  if (is_text_kind(x) && x == y) return Access::text(a) == Access::text(b);
  if (is_run_kind(x) && is_run_kind(y)) return Access::text(a) == Access::text(b);
  if (depth > kMaxNesting) throw_nested_too_deeply();
  if (is_set_kind(x) && is_set_kind(y)) return equal_tables(a, b, depth);
  if (x != y) return false;
  if (x == Kind::none) return true;
  if (!Access::has_node(a)) return false;
  return Access::node(a) == Access::node(b) || equal_nodes(a, b, depth);
}

bool same(const Object& a, const Object& b, int depth) {
  if (Access::kind(a) == Kind::real && Access::kind(b) == Kind::real &&
      std::bit_cast<std::uint64_t>(Access::real(a)) ==
          std::bit_cast<std::uint64_t>(Access::real(b))) {
    return true;
  }
  return equal(a, b, depth);
}

std::uint64_t hash_of(const Object& value, int depth) {
  if (depth > kMaxNesting) throw_nested_too_deeply();
  switch (Access::kind(value)) {
    case Kind::none:
      return 0xfca86420;
    case Kind::boolean:
    case Kind::integer:
      return hash_integer(Access::integer(value));
    case Kind::real:
      return hash_real(Access::real(value));
    case Kind::short_text:
    case Kind::text:
    case Kind::bytes:
      return hash_of_bytes(Access::text(value));
    default:
      return hash_of_node(value, depth);
  }
}

}  // namespace runtime

using runtime::Access;

std::size_t Object::hash() const { return runtime::hash_of(*this); }

bool Object::equals(const Object& other) const { return runtime::equal(*this, other); }

bool Object::less(const Object& other) const {
  using runtime::ValueKind;
  const ValueKind x = kind();
  const ValueKind y = other.kind();
  const bool complex = x == ValueKind::complex || y == ValueKind::complex;
  if (runtime::is_number(x) && runtime::is_number(y) && !complex) {
    return runtime::compare_reals(*this, other) == -1;
  }
  if (runtime::is_text(*this) && runtime::is_text(other)) {
    return Access::text(*this) < Access::text(other);  // UTF-8 sorts as its code points
  }
  if (runtime::is_run_kind(x) && runtime::is_run_kind(y)) {
    return Access::text(*this) < Access::text(other);
  }
  if (x == y && runtime::is_sequence(*this)) return runtime::less_items(*this, other);
  if (runtime::is_set_kind(x) && runtime::is_set_kind(y)) {
    return runtime::is_proper_subset(*this, other);
  }
  throw TypeError("'<' not supported between instances of '" + type_name() + "' and '" +
                  other.type_name() + "'");
}

}  // namespace millrace
