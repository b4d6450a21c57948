//! A real certificate authority on loopback: Debian's `pebble`, which validates for real, with a resolver that leads
//! every name here.

use std::fs::File;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

use super::handshake::{Asked, connect};
use super::within;

/// The key that `pebble` wants accounts bound to, with `Options::bound`.
pub const EAB_KEY_ID: &str = "kid-1";
pub const EAB_HMAC_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// How the authority is to behave.
#[derive(Clone, Copy)]
pub struct Options {
    /// Accounts have to be bound to an external one.
    pub bound: bool,
    /// How many of a hundred good nonces it refuses.
    pub refused_nonces: u8,
    /// The life of a certificate, in seconds.
    pub life: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { bound: false, refused_nonces: 5, life: 90 * 24 * 3600 }
    }
}

/// The authority. It ends with this value.
pub struct Pebble {
    dir: TempDir,
    options: Options,
    port: u16,
    management: u16,
    dns: SocketAddr,
    /// Where it validates by http-01 and tls-alpn-01: led on to wherever the test says.
    validation: u16,
    leads_to: watch::Sender<Option<SocketAddr>>,
    child: Option<Child>,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.down();
    }
}

impl Pebble {
    /// A running authority.
    pub async fn start(options: Options) -> Self {
        let mut pebble = Self::reserve(options).await;
        pebble.up().await;
        pebble
    }

    /// An authority that does not run yet, but has its address.
    pub async fn reserve(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(dir.path().join("own.pem"), cert.pem()).unwrap();
        std::fs::write(dir.path().join("own.key"), signing_key.serialize_pem()).unwrap();
        let (leads_to, led) = watch::channel(None);
        let validation = forward(led).await;
        let (port, management) = free_ports();
        Self { dir, options, port, management, dns: resolver().await, validation, leads_to, child: None }
    }

    /// Starts it, with nothing of what it knew before.
    pub async fn up(&mut self) {
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": self.dir.path().join("own.pem"),
            "privateKey": self.dir.path().join("own.key"),
            "httpPort": self.validation,
            "tlsPort": self.validation,
            "ocspResponderURL": "",
            "certificateValidityPeriod": self.options.life,
            "externalAccountBindingRequired": self.options.bound,
            "externalAccountMACKeys": { EAB_KEY_ID: EAB_HMAC_KEY },
        }});
        let path = self.dir.path().join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let child = Command::new("pebble")
            .args(["-config", path.to_str().unwrap(), "-dnsserver", &self.dns.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", self.options.refused_nonces.to_string())
            // Every order is validated, no former one counts.
            .env("PEBBLE_AUTHZREUSE", "0")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("tests/run installs pebble");
        self.child = Some(child);
        for port in [self.port, self.management] {
            within("pebble listens", async {
                while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
    }

    /// Ends it.
    pub fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The value of `server.acme.directory_url`.
    pub fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// The value of `server.acme.ca_file`.
    pub fn ca_file(&self) -> String {
        self.dir.path().join("own.pem").display().to_string()
    }

    /// Validation goes there from now on; it waits until then.
    pub fn validates_at(&self, addr: SocketAddr) {
        self.leads_to.send_replace(Some(addr));
    }

    /// Validation waits from now on, until it is told where to go.
    pub fn validates_later(&self) {
        self.leads_to.send_replace(None);
    }

    /// The root that its certificates can be verified with.
    pub async fn root(&self) -> CertificateDer<'static> {
        let own = CertificateDer::from_pem_file(self.ca_file()).unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], self.management));
        let mut stream =
            connect(addr, Asked { roots: vec![own], ..Asked::default() }, "localhost").await.expect("pebble's own certificate");
        let answer = stream.get("/roots/0", "localhost").await;
        CertificateDer::from_pem_slice(answer.as_bytes()).expect("a root")
    }

    /// How often a path has been asked for, such as `/order-plz`.
    pub fn asked(&self, path: &str) -> usize {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().filter(|line| line.contains(&format!(" {path} ")) || line.ends_with(&format!(" {path}"))).count()
    }

    fn log(&self) -> std::path::PathBuf {
        self.dir.path().join("log")
    }
}

fn free_ports() -> (u16, u16) {
    let bound = [(); 2].map(|()| StdListener::bind("127.0.0.1:0").unwrap());
    (bound[0].local_addr().unwrap().port(), bound[1].local_addr().unwrap().port())
}

/// Leads connections to wherever the channel says, once it says so.
async fn forward(led: watch::Receiver<Option<SocketAddr>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut led = led.clone();
            tokio::spawn(async move {
                let Ok(target) = led.wait_for(Option::is_some).await.map(|target| target.expect("waited for")) else { return };
                if let Ok(mut server) = TcpStream::connect(target).await {
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    port
}

/// A resolver that leads every name to 127.0.0.1 (RFC 1035 §4), and knows nothing else.
async fn resolver() -> SocketAddr {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let query = &buffer[..length];
            // The question ends with its name's root label, type and class.
            let Some(end) = query.get(12..).and_then(|rest| rest.iter().position(|byte| *byte == 0)).map(|at| 12 + at + 5) else {
                continue;
            };
            let Some(question) = query.get(12..end) else { continue };
            let is_a = question[question.len() - 4..] == [0, 1, 0, 1];
            let mut answer = vec![query[0], query[1], 0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0];
            answer.extend_from_slice(question);
            if is_a {
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&answer, peer).await;
        }
    });
    addr
}
