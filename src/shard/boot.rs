//! Starting the process: sockets, threads, the banner.
