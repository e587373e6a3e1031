# cmake --install: binary, library, headers, the shipped model and the CMake package.
include(CMakePackageConfigHelpers)

set(MAMBA2_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/mamba2)
set(MAMBA2_DATA_DIR ${CMAKE_INSTALL_DATADIR}/mamba2)

if(TARGET mamba2)
  install(TARGETS mamba2 RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(TARGETS mamba2_static EXPORT mamba2Targets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT mamba2Targets NAMESPACE mamba2:: DESTINATION ${MAMBA2_PACKAGE_DIR})

# The package asks for its dependencies by the very file that the build asks with.
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/mamba2Config.cmake.in ${PROJECT_BINARY_DIR}/mamba2Config.cmake
                              INSTALL_DESTINATION ${MAMBA2_PACKAGE_DIR} PATH_VARS MAMBA2_DATA_DIR)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/mamba2ConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/mamba2Config.cmake ${PROJECT_BINARY_DIR}/mamba2ConfigVersion.cmake
              ${CMAKE_CURRENT_LIST_DIR}/Mamba2Dependencies.cmake
        DESTINATION ${MAMBA2_PACKAGE_DIR})
install(DIRECTORY ${CMAKE_CURRENT_LIST_DIR}/ DESTINATION ${MAMBA2_PACKAGE_DIR} FILES_MATCHING PATTERN "Find*.cmake")

install(DIRECTORY ${PROJECT_SOURCE_DIR}/models/classics-5m DESTINATION ${MAMBA2_DATA_DIR}/models)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/CHANGELOG.md
        DESTINATION ${CMAKE_INSTALL_DOCDIR})
