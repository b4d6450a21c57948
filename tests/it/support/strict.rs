//! An origin that takes nothing but strict HTTP/1.1, and tells what it was asked.

use std::collections::HashSet;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::within;

/// One request as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Method and target.
    pub line: String,
    /// Names in lower case, and values.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Asked {
    /// All values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// What reached the origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Request(Asked),
    /// Bytes that are no strict HTTP/1.1.
    Nonsense(String),
    /// A request began, and its connection ended before it did.
    Torn(String),
}

/// Answers every request with 200 and "ok".
pub struct Strict {
    pub addr: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Strict {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (send, seen) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(serve(tcp, send.clone()));
            }
        });
        Self { addr, seen }
    }

    /// The next thing that reaches it.
    pub async fn next(&mut self) -> Seen {
        within("something reaches the origin", self.seen.recv()).await.expect("the listener lives")
    }

    /// The next request.
    pub async fn asked(&mut self) -> Asked {
        match self.next().await {
            Seen::Request(asked) => asked,
            other => panic!("{other:?}"),
        }
    }
}

async fn serve(mut tcp: TcpStream, seen: mpsc::UnboundedSender<Seen>) {
    let mut buffer = Vec::new();
    loop {
        match parse(&buffer) {
            Ok(Some((asked, len))) => {
                buffer.drain(..len);
                // The proxy's own calls.
                let own = asked.line == "GET /api/info" || asked.all("x-auth-token") == ["service-token"];
                let answer = if own {
                    let body = r#"{"version":"8.8","success":true,"_id":"service","roles":["admin"]}"#;
                    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                } else if asked.line.starts_with("HEAD ") {
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n".to_owned()
                } else {
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned()
                };
                if !own {
                    let _ = seen.send(Seen::Request(asked));
                }
                if tcp.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Ok(None) => {
                if !matches!(tcp.read_buf(&mut buffer).await, Ok(n) if n > 0) {
                    if !buffer.is_empty() {
                        let _ = seen.send(Seen::Torn(String::from_utf8_lossy(&buffer).into_owned()));
                    }
                    return;
                }
            }
            Err(why) => {
                let _ = seen.send(Seen::Nonsense(format!("{why}: {}", String::from_utf8_lossy(&buffer))));
                return;
            }
        }
    }
}

type Parsed<T> = Result<Option<(T, usize)>, String>;

fn parse(bytes: &[u8]) -> Parsed<Asked> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let mut lines = split(&bytes[..end]).into_iter();
    let line = lines.next().unwrap_or_default();
    let Some(target) = line.strip_suffix(b" HTTP/1.1") else { return Err("not HTTP/1.1".into()) };
    let parts: Vec<_> = target.split(|&b| b == b' ').collect();
    if !matches!(parts[..], [method, target] if is_token(method) && target.iter().all(|&b| b > b' ' && b != 0x7f) && !target.is_empty()) {
        return Err("request line".into());
    }
    let fields = lines.map(|line| field(&line)).collect::<Result<Vec<_>, _>>()?;
    let names: HashSet<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
    let all = |name: &str| fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect::<Vec<_>>();
    let (hosts, lengths, codings) = (all("host"), all("content-length"), all("transfer-encoding"));
    if hosts.len() != 1 || lengths.len() > 1 || codings.len() > 1 || (!lengths.is_empty() && names.contains("transfer-encoding")) {
        return Err("host or framing".into());
    }
    let mut asked = Asked { line: latin1(target), fields, ..Asked::default() };
    let body = &bytes[end + 4..];
    if let Some(coding) = codings.first() {
        if coding != "chunked" {
            return Err("coding".into());
        }
        let Some(((data, trailers), len)) = chunks(body)? else { return Ok(None) };
        (asked.body, asked.trailers) = (data, trailers);
        return Ok(Some((asked, end + 4 + len)));
    }
    let length = match lengths.first() {
        Some(length) if length.bytes().all(|b| b.is_ascii_digit()) && !length.is_empty() => length.parse().map_err(|_| "length")?,
        Some(_) => return Err("length".into()),
        None => 0,
    };
    if body.len() < length {
        return Ok(None);
    }
    asked.body = body[..length].to_vec();
    Ok(Some((asked, end + 4 + length)))
}

type Chunks = (Vec<u8>, Vec<(String, String)>);

fn chunks(bytes: &[u8]) -> Parsed<Chunks> {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = bytes[at..].windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let size = &bytes[at..at + end];
        if size.is_empty() || size.len() > 15 || !size.iter().all(u8::is_ascii_hexdigit) {
            return Err("chunk size".into());
        }
        let size = usize::from_str_radix(&latin1(size), 16).map_err(|_| "chunk size")?;
        at += end + 2;
        if size == 0 {
            break;
        }
        let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
        if !chunk.ends_with(b"\r\n") {
            return Err("chunk end".into());
        }
        data.extend_from_slice(&chunk[..size]);
        at += size + 2;
    }
    let mut trailers = Vec::new();
    loop {
        let Some(end) = bytes[at..].windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let line = &bytes[at..at + end];
        at += end + 2;
        if line.is_empty() {
            return Ok(Some(((data, trailers), at)));
        }
        trailers.push(field(line)?);
    }
}

fn split(head: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = vec![Vec::new()];
    let mut bytes = head.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b'\r' && bytes.next_if_eq(&b'\n').is_some() {
            lines.push(Vec::new());
        } else if let Some(line) = lines.last_mut() {
            line.push(byte);
        }
    }
    lines
}

fn field(line: &[u8]) -> Result<(String, String), String> {
    let colon = line.iter().position(|&b| b == b':').ok_or("field without colon")?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if !is_token(name) || !value.iter().all(|&b| b == b'\t' || (b >= b' ' && b != 0x7f)) {
        return Err(format!("field {:?}", latin1(line)));
    }
    Ok((latin1(name).to_ascii_lowercase(), latin1(value)))
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
