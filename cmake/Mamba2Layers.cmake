# libmamba2 is the sum of its layers, an object library each. tools/check_layers.py holds the includes to the order.

# Bottom to top; mamba2/ and tests/ hold a folder for each, as far as it is there.
set(MAMBA2_LAYERS base tensor tokenizer ops checkpoint hub reference cpu cuda model generate pipeline devices app)
# Those that read bytes from outside: libFuzzer sees which of their branches an input takes.
set(MAMBA2_FUZZED_LAYERS base tokenizer checkpoint model)

# mamba2_layer(NAME SOURCES a.cpp ... [HEADERS a.h ...] [LIBRARIES lib ...])
# HEADERS are the public ones, which are installed; without it all that lie beside the sources are.
function(mamba2_layer NAME)
  cmake_parse_arguments(ARG "" "" "SOURCES;HEADERS;LIBRARIES" ${ARGN})
  add_library(mamba2_${NAME} OBJECT ${ARG_SOURCES})
  target_include_directories(mamba2_${NAME} PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/generated)
  target_link_libraries(mamba2_${NAME} PRIVATE mamba2_options PUBLIC fmt::fmt ${ARG_LIBRARIES})
  if(MAMBA2_FUZZERS AND NAME IN_LIST MAMBA2_FUZZED_LAYERS)
    target_compile_options(mamba2_${NAME} PRIVATE -fsanitize=fuzzer-no-link)
  endif()

  target_sources(mamba2_static PRIVATE $<TARGET_OBJECTS:mamba2_${NAME}>)
  target_link_libraries(mamba2_static PUBLIC fmt::fmt ${ARG_LIBRARIES})
  if(NOT ARG_HEADERS)
    file(GLOB ARG_HEADERS CONFIGURE_DEPENDS *.h)
  endif()
  target_sources(mamba2_static PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR} FILES ${ARG_HEADERS})
endfunction()

# mamba2_test(NAME SOURCES a_test.cpp ... [LIBRARIES lib ...]): one GoogleTest program, each test known to ctest.
function(mamba2_test NAME)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(${NAME} ${ARG_SOURCES})
  set_target_properties(${NAME} PROPERTIES UNITY_BUILD OFF)  # each file may have its own way of `readable`
  target_include_directories(${NAME} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${NAME} PRIVATE mamba2_options mamba2_static GTest::gmock GTest::gtest_main ${ARG_LIBRARIES})
  target_compile_definitions(${NAME} PRIVATE MAMBA2_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_precompile_headers(${NAME} REUSE_FROM mamba2_test_headers)
  gtest_discover_tests(${NAME} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 600)
endfunction()
