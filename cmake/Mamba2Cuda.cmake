# The language CUDA and its architectures, for builds with option MAMBA2_CUDA and for mamba2/cuda by itself.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  # Hopper's own instructions for 9.0; the general kernels for everything from 8.0 on.
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 80-virtual)
endif()
enable_language(CUDA)
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 knows nvcc's only up to 17
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
