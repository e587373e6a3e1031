# Targets that read the sources and compile nothing: format, lint, docs.
add_custom_target(format COMMAND ${PROJECT_SOURCE_DIR}/tools/lint.sh format USES_TERMINAL)
add_custom_target(lint COMMAND ${PROJECT_SOURCE_DIR}/tools/lint.sh all ${PROJECT_BINARY_DIR} USES_TERMINAL)

find_program(DOXYGEN doxygen)
if(DOXYGEN)
  add_custom_target(docs COMMAND ${CMAKE_COMMAND} -E env MAMBA2_VERSION=${PROJECT_VERSION} ${DOXYGEN} Doxyfile
                    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR} USES_TERMINAL)
endif()
