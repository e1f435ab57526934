"""Which sockets a command and all its children ask the system for, also from native code: by strace, else by a shim.

strace sees every call. Where it is not there, or may not trace, a shim in the place of the C library's functions does,
which sees all but what calls the system by itself.
"""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

CALLS = ("socket", "connect", "bind", "sendto", "socketpair")
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/socket.h>
#include <netdb.h>
static void note(const char *what, const char *family) {
  const char *place = getenv("SOCKETS_SEEN");
  int file = place ? open(place, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
  char line[400];
  int size = snprintf(line, sizeof line, "%s(%.300s)\n", what, family);
  if (file >= 0) { if (write(file, line, size) != size) abort(); close(file); }
}
static const char *named(int family) {
  return family == AF_UNIX ? "AF_UNIX" : family == AF_INET ? "AF_INET" : family == AF_INET6 ? "AF_INET6" :
         family == AF_NETLINK ? "AF_NETLINK" : "another family";
}
int socket(int family, int type, int protocol) {
  int (*real)(int, int, int) = dlsym(RTLD_NEXT, "socket");
  note("socket", named(family));
  return real(family, type, protocol);
}
int socketpair(int family, int type, int protocol, int *pair) {
  int (*real)(int, int, int, int *) = dlsym(RTLD_NEXT, "socketpair");
  note("socketpair", named(family));
  return real(family, type, protocol, pair);
}
int connect(int file, const struct sockaddr *address, socklen_t size) {
  int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
  note("connect", named(address->sa_family));
  return real(file, address, size);
}
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
  note("getaddrinfo", host ? host : "");
  return real(host, service, hints, found);
}
"""


@cache
def can_strace():
    """Return whether strace is here and may trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0


def shim(folder):
    """Return the shared library that notes calls, built in a folder; skip where nothing builds it."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.uname().sysname != "Linux":
        pytest.skip("there is no strace that may trace, and no C compiler to build a shim")
    source, made = folder / "shim.c", folder / "shim.so"
    source.write_text(SHIM, encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
    return made


def sockets(command, folder, *, cwd, env, way="strace"):
    """Run a command; return the calls about sockets that it and its children made, and how it ended."""
    seen = Path(folder) / "sockets"
    seen.unlink(missing_ok=True)
    seen.touch()
    if way == "strace":
        command = ["strace", "-f", "-qq", "-e", f"trace={','.join(CALLS)}", "-o", str(seen), *command]
    else:
        env = env | {"LD_PRELOAD": str(shim(Path(folder))), "SOCKETS_SEEN": str(seen)}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False)
    lines = seen.read_text(encoding="utf-8", errors="replace").splitlines()
    calls = [line for line in lines if re.search(rf"\b({'|'.join(CALLS)}|getaddrinfo)\(", line)]
    return calls, done
