//! Lines go to standard output through a thread of their own, so that no request waits for whoever reads
//! them: a pipe that nobody empties, a disk that is full.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait for a slow reader; beyond it they are dropped and counted. The channel itself has no bound: one
/// that has makes room for all of them at once, a quarter of a megabyte that is never used.
const QUEUE: usize = 8192;
/// Bytes that are written at once.
const BATCH: usize = 64 * 1024;
/// How long the last lines may take when the process ends. Somebody who does not read must not keep it.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What the writing thread is told.
enum Message {
    Line(Vec<u8>),
    /// To look whether it is to end.
    Wake,
}

/// Ends the writing thread once everything queued is written, or nobody takes it.
#[derive(Debug)]
pub(super) struct Last {
    sender: Sender<Message>,
    ending: Arc<AtomicBool>,
    /// Closes when the thread has ended.
    ended: Receiver<()>,
}

impl Drop for Last {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        // A thread that has gone needs nobody to wake it.
        let _ = self.sender.send(Message::Wake);
        let _ = self.ended.recv_timeout(LAST_LINES);
    }
}

/// Hands lines to the writing thread.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    sender: Sender<Message>,
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

/// A queue to standard output; lines that are lost are counted in `dropped`.
pub(super) fn to_stdout(dropped: Arc<AtomicU64>) -> (Queue, Last) {
    // Without the line buffer of `Stdout`, which keeps what could not be written.
    let out = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    to(out.ok(), dropped)
}

fn to<W: Write + Send + 'static>(out: Option<W>, dropped: Arc<AtomicU64>) -> (Queue, Last) {
    let (sender, messages) = channel();
    let (done, ended) = channel::<()>();
    let (ending, waiting) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writer = Writer { messages, waiting: Arc::clone(&waiting), dropped: Arc::clone(&dropped), ending: Arc::clone(&ending), told: 0 };
    let write = move || {
        match out {
            Some(out) => writer.run(out),
            None => writer.run(io::stdout()),
        }
        drop(done);
    };
    if let Err(error) = std::thread::Builder::new().name("gantry-log".into()).spawn(write) {
        // Nothing else can tell it; the lines are counted as lost.
        let _ = writeln!(io::stderr(), "gantry: there will be no log, since its thread cannot be started: {error}");
    }
    (Queue { sender: sender.clone(), waiting, dropped }, Last { sender, ending, ended })
}

/// The writing thread.
struct Writer {
    messages: Receiver<Message>,
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
    ending: Arc<AtomicBool>,
    /// Lost lines that the log itself has told of.
    told: u64,
}

impl Writer {
    fn run(mut self, mut out: impl Write) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let ending = self.ending.load(Ordering::Acquire);
            let mut next = if ending { self.messages.try_recv().ok() } else { self.messages.recv().ok() };
            if next.is_none() {
                return;
            }
            let mut lines = 0;
            while let Some(message) = next {
                if let Message::Line(line) = message {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                    batch.extend_from_slice(&line);
                    lines += 1;
                }
                next = if batch.len() < BATCH { self.messages.try_recv().ok() } else { None };
            }
            self.write(&mut out, &mut batch, lines);
        }
    }

    /// Writes these lines and empties the batch.
    fn write(&mut self, out: &mut impl Write, batch: &mut Vec<u8>, lines: u64) {
        let lost = self.dropped.load(Ordering::Relaxed);
        if lost > self.told {
            let words = format!("gantry: {} log lines were dropped, since whoever takes them is too slow or full\n", lost - self.told);
            batch.extend_from_slice(words.as_bytes());
        }
        // A reader that has gone away must not end the proxy: the lines are lost.
        match out.write_all(batch).and_then(|()| out.flush()) {
            Ok(()) => self.told = lost,
            Err(_) => {
                self.dropped.fetch_add(lines, Ordering::Relaxed);
            }
        }
        batch.clear();
    }
}

impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        } else if self.sender.send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};
    use std::time::Instant;

    use super::*;

    /// Standard output as it can be: `Err` is a full disk, a closed gate a pipe that nobody empties.
    #[derive(Clone, Default)]
    struct Out(Arc<(Mutex<State>, Condvar)>);

    #[derive(Default)]
    struct State {
        written: Vec<u8>,
        full: bool,
        shut: bool,
    }

    impl Out {
        fn set(&self, change: impl FnOnce(&mut State)) {
            change(&mut self.0.0.lock().unwrap());
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().written.clone()).unwrap()
        }
    }

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.1.wait_while(self.0.0.lock().unwrap(), |state| state.shut).unwrap();
            if state.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn say(queue: &Queue, line: &str) {
        let mut queue = queue;
        queue.write_all(line.as_bytes()).unwrap();
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn lines_that_a_full_disk_takes_are_counted_and_told_of_later() {
        let (out, dropped) = (Out::default(), Arc::new(AtomicU64::new(0)));
        let (queue, last) = to(Some(out.clone()), Arc::clone(&dropped));
        out.set(|state| state.full = true);
        say(&queue, "one\n");
        say(&queue, "two\n");
        until("both are lost", || dropped.load(Ordering::Relaxed) == 2);
        out.set(|state| state.full = false);
        say(&queue, "three\n");
        drop(last);
        assert!(out.text().starts_with("three\ngantry: 2 log lines were dropped"), "{}", out.text());
    }

    #[test]
    fn a_reader_that_never_reads_keeps_nobody() {
        let (out, dropped) = (Out::default(), Arc::new(AtomicU64::new(0)));
        out.set(|state| state.shut = true);
        let (queue, last) = to(Some(out.clone()), Arc::clone(&dropped));
        for _ in 0..3 * QUEUE {
            say(&queue, "a line that is long enough to be one\n");
        }
        // What waits is bounded: the queue, and what the thread has taken out of it.
        assert!((QUEUE as u64..=2 * QUEUE as u64).contains(&dropped.load(Ordering::Relaxed)));
        drop(last);
        assert_eq!(out.text(), "");
        out.set(|state| state.shut = false);
    }
}
