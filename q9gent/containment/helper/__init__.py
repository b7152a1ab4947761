"""The helper processes that start and hold every run on Linux.

A program of its own, beside the server: standard library only, small, single-threaded so that forking is
safe, and started isolated (``python -I -S``). The server imports ``processes`` and the constants here, and
nothing else of it.

It is two programs in one. The *fork server* (``fork_server``) sits at the other end of the server's socket
and forks supervisors. A *supervisor* (``supervisor``) holds one run at a time: it is a child subreaper, so
whatever the run starts, however it detaches, is a descendant of it for ever. To end a run it signals all
descendants and reaps, again and again, until ``waitpid`` says ECHILD: nothing is left. That is the proof
of death, and it is also why a supervisor can be used again for the next run.

Both ignore the signals by which terminals and service managers end things; only their socket, the
*lifeline*, ends them: its end of file (or any error) means that the server is gone, and then the runs must go
too. The fork server is a subreaper as well: a run that kills its own supervisor is caught there.

Messages are packets. Numbers are decimal text::

    server → fork server    F + [socket]   fork a supervisor for the other end of this socket
                            K pid          kill that supervisor
    fork server → server    R              ready
                            D pid killed   that supervisor is gone, and so is all that it held
    server → supervisor     S argv + [stdin, stdout, stderr]   start; NUL-separated; inline
                            M + [stdin, stdout, stderr, memfd] start; argv in the memfd
                            E grace_ms     end it: ask, wait, kill
    supervisor → server     P pid          here I am
                            ! errno        could not fork, or could not start
                            p pid          started
                            x status       the leader has exited (a wait status)
                            v killed pids  still alive after KILL_TIMEOUT_SECONDS of killing
                            d killed [status]          all dead; the leader's status, if not told yet
"""

PACKET_BYTES = 1 << 17
"""The longest packet that is read."""

BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from helper.fork_server import main; main()"
"""What ``python -I -S -c`` runs; its arguments are the folder of this package, the socket's descriptor and
the limit of descriptors for runs."""
