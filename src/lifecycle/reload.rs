//! Asking for the configuration to be read again. Who asks (a signal, the admin listener) and who does it
//! (the composition root) meet here.

use tokio::sync::{mpsc, oneshot};

/// Requests that may wait; whoever comes later is told that enough are under way.
const QUEUE: usize = 8;

/// What came of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The new configuration holds.
    Applied(Applied),
    /// The new one is wrong and the old one stays.
    Refused(Vec<Flaw>),
    /// Not now: why.
    Ignored(&'static str),
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Keys whose values hold now. Secrets by name only.
    pub changed: Vec<String>,
    /// Keys whose new values hold after a restart.
    pub needs_restart: Vec<String>,
    /// What is suspicious about the configuration.
    pub warnings: Vec<Flaw>,
}

/// Something that is wrong with a configuration. Values of secrets are masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The key, dotted; empty where the file is no TOML at all.
    pub key: String,
    /// The value as written.
    pub value: String,
    /// Where it was written.
    pub place: String,
    /// What is wrong and what to do.
    pub why: String,
}

/// One request, with the way back.
#[derive(Debug)]
pub struct Asked(oneshot::Sender<Outcome>);

impl Asked {
    /// Answers it.
    pub fn answer(self, outcome: Outcome) {
        // Whoever asked may have gone.
        let _ = self.0.send(outcome);
    }
}

/// Asks for reloads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reloads(mpsc::Sender<Asked>);

/// The asking side and the doing side. Requests are done one after the other.
pub fn channel() -> (Reloads, mpsc::Receiver<Asked>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Reloads(sender), receiver)
}

impl Reloads {
    /// Asks, and waits for what comes of it.
    pub async fn reload(&self) -> Outcome {
        let (answer, wait) = oneshot::channel();
        if let Err(error) = self.0.try_send(Asked(answer)) {
            return Outcome::Ignored(match error {
                mpsc::error::TrySendError::Full(_) => "other reloads are under way; try again in a moment",
                mpsc::error::TrySendError::Closed(_) => STOPPING,
            });
        }
        wait.await.unwrap_or(Outcome::Ignored(STOPPING))
    }
}

/// Why nothing is read again at the end.
pub const STOPPING: &str = "Gantry is stopping";
