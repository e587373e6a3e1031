# Language level, warnings and sanitizers for every target of the project.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

find_program(CCACHE ccache)
if(CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Paths seen from the source tree, so that clones of the repository share what they compiled.
  # The sloppiness is what ccache's manual asks for with precompiled headers.
  set(CMAKE_CXX_COMPILER_LAUNCHER env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1
                                      CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE})
endif()

add_library(mamba2_options INTERFACE)
target_compile_options(mamba2_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
                                                -Wnon-virtual-dtor -Woverloaded-virtual)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # False alarms of GCC 12 where it inlines std::string's operator+ (GCC bugs 105329, 105651).
  target_compile_options(mamba2_options INTERFACE -Wno-restrict -Wno-stringop-overflow -Wno-array-bounds
                                                  -Wno-stringop-overread)
endif()
# x86 GCC may fuse a*b+c differently from one file to the next; one rule for all keeps the reference's results fixed.
target_compile_options(mamba2_options INTERFACE -ffp-contract=off)
if(MAMBA2_WERROR)
  target_compile_options(mamba2_options INTERFACE -Werror)
endif()
if(MAMBA2_SANITIZE)
  add_compile_options(-fsanitize=${MAMBA2_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${MAMBA2_SANITIZE})
endif()
