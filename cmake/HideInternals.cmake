# Make the hidden symbols of a static library local: its objects become one, so that they still find
# each other.
#   cmake -DLIBRARY=libapus.a -DLD=ld -DOBJCOPY=objcopy -DAR=ar -P HideInternals.cmake
function(step)
  execute_process(COMMAND ${ARGV} COMMAND_ERROR_IS_FATAL ANY)
endfunction()
get_filename_component(folder ${LIBRARY} DIRECTORY)
set(object ${folder}/apus.o)
step(${LD} -r --whole-archive ${LIBRARY} -o ${object})
step(${OBJCOPY} --localize-hidden ${object})
file(REMOVE ${LIBRARY})
step(${AR} qcs ${LIBRARY} ${object})
file(REMOVE ${object})
