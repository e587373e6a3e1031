# Looks for symbols that the linker may take from any of several files (weak ones: inline functions, templates) in the
# objects OBJECTS, which are built for processors better than the least.  Taken for the whole program, such a function
# would crash on a lesser processor.
foreach(OBJECT ${OBJECTS})
  execute_process(COMMAND ${NM} --defined-only ${OBJECT} OUTPUT_VARIABLE SYMBOLS COMMAND_ERROR_IS_FATAL ANY)
  if(SYMBOLS MATCHES "[^\n]* [VvWwu] [^\n]*")
    message(SEND_ERROR "${OBJECT} holds a symbol that other files may share: ${CMAKE_MATCH_0}")
  endif()
endforeach()
