set(MOVED ${PREFIX}-moved)
set(MAMBA2 ${MOVED}/bin/mamba2)
file(REMOVE_RECURSE ${MOVED})
file(COPY ${PREFIX}/ DESTINATION ${MOVED})
execute_process(COMMAND ${MAMBA2} generate "It was" --max-new-tokens 2 COMMAND_ERROR_IS_FATAL ANY)

# The model that spoke is the one beside the binary, not the source tree's: spoilt, it must be missed.
file(WRITE ${MOVED}/share/mamba2/models/classics-5m/config.json "spoilt")
execute_process(COMMAND ${MAMBA2} generate "It was" --max-new-tokens 2 RESULT_VARIABLE STATUS ERROR_VARIABLE ERRORS)
if(NOT STATUS EQUAL 1 OR NOT ERRORS MATCHES "config.json")
  message(FATAL_ERROR "expected exit status 1 and an error about ${MOVED}'s config.json, found ${STATUS} and: ${ERRORS}")
endif()
