//! The workspace's settings for a browser in the native login, wherever its client reads them.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body::Body as HttpBody;
use percent_encoding::percent_decode_str;

use crate::body::{Body, BodyError};
use crate::edge::settings::edit::{Edit, Step, decoder, edited, unfasten};
use crate::edge::settings::socket::Changes;
use crate::edge::settings::{Settings, calls};
use crate::metrics::{Limit, Metrics};
use crate::peer::RequestId;

/// Calls for the settings whose answers have not come yet, on one socket. A client has one or two.
const MOST_CALLS: usize = 16;

/// What is rewritten, and with what bound. In the extensions of a request it says that this is to be done.
#[derive(Debug)]
pub(in crate::edge) struct Rewriting {
    settings: Settings,
    /// Bytes of an answer or a message that are held at most.
    most: usize,
    metrics: Arc<Metrics>,
}

/// Where the settings stand in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a document of JSON. Whether it answers a call for what has changed since.
    Document(bool),
    /// In the frames of `SockJS` over HTTP, one a line.
    Frames,
}

impl Place {
    /// By the path that was asked for.
    pub(super) fn of(path: &str) -> Option<Self> {
        let (before, last) = path.rsplit_once('/')?;
        if last == "settings.public" && before.ends_with("/api/v1") {
            return Some(Self::Document(false));
        }
        let by_method = || matches!(&*percent_decode_str(last).decode_utf8_lossy(), "public-settings:get" | "public-settings/get");
        if (before.ends_with("/api/v1/method.call") || before.ends_with("/api/v1/method.callAnon")) && by_method() {
            return Some(Self::Document(true));
        }
        let frames = before.contains("/sockjs/") && matches!(last, "xhr" | "xhr_streaming" | "eventsource");
        frames.then_some(Self::Frames)
    }
}

impl Rewriting {
    pub(super) fn new(settings: Settings, most: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { settings, most, metrics })
    }

    /// The answer to a request, with the settings in it rewritten.
    pub(in crate::edge) fn dress<U>(self: &Arc<Self>, request: &Parts, response: Response<Body<U>>, id: &RequestId) -> Response<Body<U>>
    where
        U: HttpBody<Data = Bytes> + Unpin + 'static,
        U::Error: Into<BodyError>,
    {
        let Some(place) = Place::of(request.uri.path()) else { return response };
        if request.method == Method::HEAD || response.status() != StatusCode::OK || !fits(place, &response) {
            return response;
        }
        let decoder = match decoder(response.headers()) {
            Ok(decoder) => decoder,
            Err(name) => {
                tracing::warn!(
                    %id, coding = name,
                    "the workspace compressed its settings in a way that was not asked for: a browser in the native login sees those of everybody"
                );
                return response;
            }
        };
        let mut response = response;
        unfasten(response.headers_mut());
        let made = Made { rewriting: Arc::clone(self), place };
        response.map(|body| edited(body, decoder, made))
    }

    /// The messages of a socket of this browser.
    pub(in crate::edge) fn socket(self: &Arc<Self>) -> Socket {
        Socket { rewriting: Arc::clone(self), asked: VecDeque::new() }
    }

    fn document<'a>(&self, text: &'a str, changes_only: bool) -> Cow<'a, str> {
        let seen = self.settings.replaced(text).text;
        if !changes_only {
            return seen;
        }
        match self.settings.completed(&seen, &mut |_| true) {
            Some(whole) => Cow::Owned(whole),
            None => seen,
        }
    }
}

/// Whether an answer is of the kind that settings come in.
fn fits<B>(place: Place, response: &Response<B>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match place {
        Place::Document(_) => kind == "application/json",
        Place::Frames => matches!(kind.as_str(), "application/javascript" | "text/javascript" | "text/event-stream" | "text/plain"),
    }
}

/// An answer that is being rewritten.
struct Made {
    rewriting: Arc<Rewriting>,
    place: Place,
}

impl Made {
    /// A line of `SockJS` over HTTP: a frame, or one with `data: ` in front.
    fn line(&self, line: &[u8]) -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(line) else { return line.to_vec() };
        let (lead, frame) = text.strip_prefix("data: ").map_or(("", text), |frame| ("data: ", frame));
        match self.rewriting.settings.replaced(frame.trim_end()).text {
            Cow::Owned(new) => format!("{lead}{new}{}", &frame[frame.trim_end().len()..]).into_bytes(),
            Cow::Borrowed(_) => line.to_vec(),
        }
    }
}

impl Edit for Made {
    fn step(&mut self, held: &mut BytesMut, last: bool) -> Step {
        let end = match self.place {
            Place::Document(changes_only) if last => {
                return Step::Rest(match std::str::from_utf8(held) {
                    Ok(text) => Bytes::from(self.rewriting.document(text, changes_only).into_owned()),
                    Err(_) => held.split().freeze(),
                });
            }
            Place::Document(_) => 0,
            Place::Frames if last => held.len(),
            Place::Frames => memchr::memrchr(b'\n', held).map_or(0, |at| at + 1),
        };
        let whole = held.split_to(end);
        let lines = whole.split_inclusive(|&byte| byte == b'\n').flat_map(|line| self.line(line)).collect::<Vec<u8>>();
        if held.len() > self.rewriting.most {
            self.rewriting.metrics.limit_hit(Limit::NativeMessage);
            return Step::Rest([lines.as_slice(), &held.split()].concat().into());
        }
        Step::Some(lines.into())
    }
}

/// The messages of one socket.
#[derive(Debug)]
pub(in crate::edge) struct Socket {
    rewriting: Arc<Rewriting>,
    /// Ids of calls for the settings that wait for their answers.
    asked: VecDeque<String>,
}

impl Changes for Socket {
    fn most(&self) -> Option<usize> {
        Some(self.rewriting.most)
    }

    fn too_large(&self) {
        self.rewriting.metrics.limit_hit(Limit::NativeMessage);
    }

    fn said(&mut self, text: &str) {
        for id in calls(text) {
            if self.asked.len() == MOST_CALLS {
                self.asked.pop_front();
            }
            self.asked.push_back(id);
        }
    }

    fn seen<'a>(&mut self, text: &'a str) -> Cow<'a, str> {
        let seen = self.rewriting.settings.replaced(text).text;
        if self.asked.is_empty() {
            return seen;
        }
        let mut answered = |id: &str| match self.asked.iter().position(|asked| asked == id) {
            Some(at) => self.asked.remove(at).is_some(),
            None => false,
        };
        match self.rewriting.settings.completed(&seen, &mut answered) {
            Some(whole) => Cow::Owned(whole),
            None => seen,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rewriting(most: usize) -> Arc<Rewriting> {
        let settings = Settings::new(vec![("Accounts_iframe_enabled", json!(false))]);
        Rewriting::new(settings, most, Metrics::new(1))
    }

    #[test]
    fn settings_are_looked_for_where_clients_read_them() {
        for (path, expected) in [
            ("/api/v1/settings.public", Some(Place::Document(false))),
            ("/chat/api/v1/settings.public", Some(Place::Document(false))),
            ("/api/v1/method.callAnon/public-settings:get", Some(Place::Document(true))),
            ("/api/v1/method.call/public-settings%3Aget", Some(Place::Document(true))),
            ("/api/v1/method.callAnon/public-settings%2Fget", Some(Place::Document(true))),
            ("/api/v1/method.call/private-settings:get", None),
            ("/api/v1/method.call/loadHistory", None),
            ("/sockjs/123/abcdefgh/xhr", Some(Place::Frames)),
            ("/sockjs/123/abcdefgh/xhr_streaming", Some(Place::Frames)),
            ("/sockjs/123/abcdefgh/xhr_send", None),
            ("/sockjs/info", None),
            ("/api/v1/settings/Accounts_iframe_enabled", None),
            ("/settings.public", None),
            ("/", None),
            ("*", None),
        ] {
            assert_eq!(Place::of(path), expected, "{path}");
        }
    }

    fn setting(on: bool) -> String {
        json!({ "_id": "Accounts_iframe_enabled", "value": on }).to_string()
    }

    /// What a client gets of a body that comes in pieces of this size.
    fn body(place: Place, most: usize, size: usize, text: &str) -> String {
        let mut made = Made { rewriting: rewriting(most), place };
        let (mut held, mut got, mut passes) = (BytesMut::new(), Vec::new(), false);
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        for (index, piece) in pieces.iter().enumerate() {
            if passes {
                got.extend_from_slice(piece);
                continue;
            }
            held.extend_from_slice(piece);
            match made.step(&mut held, index + 1 == pieces.len()) {
                Step::Some(bytes) => got.extend_from_slice(&bytes),
                Step::Rest(bytes) => {
                    got.extend_from_slice(&bytes);
                    passes = true;
                }
            }
        }
        String::from_utf8(got).unwrap()
    }

    #[test]
    fn a_body_is_the_same_in_whatever_pieces_it_comes() {
        let frame = |on| format!("a{}\n", json!([setting(on)]));
        let stream = |on| format!("{}\no\n{}h\n{}c[3000,\"Go away!\"]\n", "h".repeat(2048), frame(on), frame(on));
        for size in [1, 7, 100, 100_000] {
            assert_eq!(body(Place::Document(false), 10_000, size, &setting(true)), setting(false));
            assert_eq!(body(Place::Frames, 10_000, size, &stream(true)), stream(false));
            assert_eq!(body(Place::Frames, 10_000, size, frame(true).trim_end()), frame(false).trim_end());
        }
        let event = |on| format!("data: {}\r\n\r\n", frame(on).trim_end());
        assert_eq!(body(Place::Frames, 10_000, 5, &event(true)), event(false));
    }

    #[test]
    fn more_than_is_held_passes_as_it_came_and_is_counted() {
        for place in [Place::Document(false), Place::Frames] {
            let text = format!("{}{}", setting(true), "x".repeat(1_000));
            let mut made = Made { rewriting: rewriting(500), place };
            let mut held = BytesMut::from(text.as_bytes());
            assert_eq!(made.step(&mut held, false), Step::Rest(text.clone().into()));
            let counted = made.rewriting.metrics.exposition();
            assert!(counted.contains("gantry_limit_hits_total{limit=\"native_message\"} 1"), "{place:?}");
            assert_eq!(body(place, 500, 100, &text), text);
        }
    }

    #[test]
    fn a_socket_completes_the_answers_to_its_own_calls() {
        let mut socket = rewriting(10_000).socket();
        let call = |id: &str| json!({ "msg": "method", "method": "public-settings/get", "id": id, "params": [{ "$date": 1 }] }).to_string();
        let answer = |id: &str| json!({ "msg": "result", "id": id, "result": { "update": [], "remove": [] } }).to_string();
        assert_eq!(socket.seen(&answer("1")), answer("1"), "somebody else's question");
        socket.said(&call("1"));
        assert_eq!(socket.seen(&answer("2")), answer("2"));
        assert!(socket.seen(&answer("1")).contains("Accounts_iframe_enabled"));
        assert_eq!(socket.seen(&answer("1")), answer("1"), "once");
        for n in 0..100 {
            socket.said(&call(&n.to_string()));
        }
        assert_eq!(socket.asked.len(), MOST_CALLS);
        assert_eq!(socket.seen(&setting(true)), setting(false));
    }
}
