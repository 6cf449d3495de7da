# Compiles SOURCE with COMPILER and -DCASE=n: case 0 must pass without a warning, every other must
# fail and say why: in a sentence of ours, or, where the language itself refuses, in the compiler's.
cmake_minimum_required(VERSION 3.25)
execute_process(
  COMMAND ${COMPILER} -std=c++20 -Wall -Wextra -Wpedantic -pedantic-errors -Werror -fsyntax-only
          -DCASE=${CASE} -I${INCLUDE} ${SOURCE}
  RESULT_VARIABLE result
  OUTPUT_VARIABLE output
  ERROR_VARIABLE output)
set(of_the_language 6 7)  # copying what only moves; designators out of order
if(CASE EQUAL 0)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "does not compile:\n${output}")
  endif()
elseif(result EQUAL 0)
  message(FATAL_ERROR "case ${CASE} compiles")
elseif(CASE IN_LIST of_the_language)
  if(NOT output MATCHES "deleted|declaration order|designator order|out of order")
    message(FATAL_ERROR "case ${CASE} fails for another reason:\n${output}")
  endif()
elseif(NOT output MATCHES "(millrace|mp::Process): [a-z]|mp::shared_array<T> holds")
  message(FATAL_ERROR "case ${CASE} fails without saying why:\n${output}")
endif()

# A sentence, and not pages of the standard library's after it.
set(in_a_sentence 13 21 22 23 24 25 26)
string(REGEX MATCHALL "error:" errors "${output}")
list(LENGTH errors count)
if(CASE IN_LIST in_a_sentence AND count GREATER 1)
  message(FATAL_ERROR "case ${CASE} fails with ${count} errors:\n${output}")
endif()
