# Compiles one case of rejected.cpp: -DCASE=n -DCOMPILER=... -DFLAGS=... -DSOURCE=... -DINCLUDE=...
# Case 0 must compile; every other must not, with a message of ours.
separate_arguments(flags UNIX_COMMAND "${FLAGS}")
execute_process(
  COMMAND ${COMPILER} ${flags} -std=c++20 -fsyntax-only -DCASE=${CASE} -I${INCLUDE} ${SOURCE}
  RESULT_VARIABLE result
  OUTPUT_VARIABLE output
  ERROR_VARIABLE output)
if(CASE EQUAL 0)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "the control does not compile:\n${output}")
  endif()
elseif(result EQUAL 0)
  message(FATAL_ERROR "case ${CASE} compiles")
elseif(NOT output MATCHES "millrace: [a-z]")
  message(FATAL_ERROR "case ${CASE} fails without saying why:\n${output}")
endif()
