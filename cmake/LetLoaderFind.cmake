# Run by `cmake --install`: let the loader find libapus.so.
#   libdir   folder of the library below the prefix
#   so_name  what programs ask the loader for
#
# Below /usr and /usr/local the loader looks itself, once ldconfig has run. Elsewhere programs need
# the path: CMake's package gives it, and the pkg-config file gets it here.
if(CMAKE_INSTALL_PREFIX MATCHES "^/usr(/local)?/*$")
  if("$ENV{DESTDIR}" STREQUAL "")
    find_program(ldconfig ldconfig PATHS /sbin /usr/sbin)
    if(ldconfig)
      execute_process(COMMAND ${ldconfig} RESULT_VARIABLE failed ERROR_VARIABLE why)
    endif()
    if(NOT ldconfig OR failed)
      message(WARNING "run ldconfig as root, so that programs find ${so_name}: ${why}")
    endif()
  endif()
else()
  set(pc "$ENV{DESTDIR}${CMAKE_INSTALL_PREFIX}/${libdir}/pkgconfig/apus.pc")
  file(READ "${pc}" text)
  string(REPLACE "Libs: -L\${libdir} -lapus" "Libs: -L\${libdir} -Wl,-rpath,\${libdir} -lapus" text
         "${text}")
  file(WRITE "${pc}" "${text}")
endif()
