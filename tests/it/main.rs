//! Everything that runs in one process: real listeners on port 0, real sockets, the stand-ins of `gantry demo`.

mod hostile;
mod ladder;
mod proxying;
mod support;
mod websocket;
