//! The built program, as a child of this process.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(20);
/// Lines worth keeping that are kept.
const KEPT: usize = 2_000;

/// The program that Cargo has built beside this one.
pub const BUILT: &str = env!("CARGO_BIN_EXE_gantry");

/// The program. It is killed with this value.
#[derive(Debug)]
pub struct Program {
    child: Child,
    readers: Vec<JoinHandle<()>>,
    said: Arc<Mutex<Said>>,
    /// The line that says where it listens.
    line: String,
}

/// What it has written.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Lines in all.
    pub lines: u64,
    /// The last warnings, errors, and whatever is no log line.
    pub notable: VecDeque<String>,
}

impl Program {
    /// Starts `run` of the program in `file` with these variables, and waits until it listens.
    ///
    /// # Errors
    /// It does not start; the words are its own.
    pub fn start(file: &Path, env: &[(String, String)]) -> io::Result<Self> {
        // It runs elsewhere.
        let mut command = Command::new(file.canonicalize()?);
        command.arg("run").env_clear().envs(env.iter().map(|(name, value)| (name, value))).current_dir("/");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let said = Arc::<Mutex<Said>>::default();
        let (found, listens) = mpsc::channel();
        let mut readers = Vec::new();
        if let Some(out) = child.stdout.take() {
            readers.push(read(out, Arc::clone(&said), Some(found)));
        }
        if let Some(err) = child.stderr.take() {
            readers.push(read(err, Arc::clone(&said), None));
        }
        let Ok(line) = listens.recv_timeout(PATIENCE) else {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
            let said = said.lock().unwrap_or_else(PoisonError::into_inner).notable.clone();
            return Err(io::Error::other(format!("gantry does not start; it wrote: {said:#?}")));
        };
        Ok(Self { child, readers, said, line })
    }

    /// Where it listens: `listen` is the public side in plain HTTP, `tls` that in TLS, `admin` the other one.
    ///
    /// # Errors
    /// That listener is off.
    pub fn addr(&self, name: &str) -> io::Result<SocketAddr> {
        let key = format!(" {name}=");
        let rest = self.line.find(&key).map(|at| self.line[at + key.len()..].trim_start_matches('"'));
        let addr = rest.and_then(|rest| rest[..rest.find(['"', ' ', '\n']).unwrap_or(rest.len())].parse().ok());
        addr.ok_or_else(|| io::Error::other(format!("gantry does not listen at {name}: {}", self.line)))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn said(&self) -> Said {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends TERM and waits for the end.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn end(mut self) -> io::Result<(ExitStatus, Said)> {
        // With `kill`, since a signal is no business of safe code.
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        let status = self.child.wait()?;
        for reader in self.readers.drain(..) {
            // A reader that panicked has read what there is to count.
            let _ = reader.join();
        }
        Ok((status, self.said()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(from: impl Read + Send + 'static, said: Arc<Mutex<Said>>, mut found: Option<mpsc::Sender<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut from = BufReader::with_capacity(1 << 16, from);
        let mut line = Vec::new();
        while matches!(from.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(&line);
            if text.contains("gantry is listening")
                && let Some(found) = found.take()
            {
                // Whoever waited may have given up.
                let _ = found.send(text.clone().into_owned());
            }
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            said.lines += 1;
            if is_notable(&text) {
                if said.notable.len() == KEPT {
                    said.notable.pop_front();
                }
                said.notable.push_back(text.trim_end().to_owned());
            }
            drop(said);
            line.clear();
        }
    })
}

/// Whether a line is more than one of the many at level info.
fn is_notable(line: &str) -> bool {
    let level = line.split_ascii_whitespace().nth(1).unwrap_or_default();
    let refused = line.contains("gantry::audit") && line.contains("not signed in");
    let usual = ["no_session", "rate_limited"].iter().any(|outcome| line.contains(outcome));
    !matches!(level, "INFO" | "DEBUG" | "TRACE") || line.contains("panicked") || (refused && !usual)
}
