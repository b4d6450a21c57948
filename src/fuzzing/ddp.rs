//! Logins and logouts in a WebSocket: however a client puts its messages into frames, compressed or not, and wherever the
//! bytes are cut, the same calls are found in them.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use serde_json::{Value, json};

use super::pieces::{Pieces, cut};
use crate::edge::ddp::{self, Call};
use crate::edge::messages::{Memory, Message, Messages};

const LIMIT: usize = 4_096;

/// Names of methods and keys, some of them the ones that are looked for.
const WORDS: [&str; 8] = ["login", "logout", "resume", "method", "msg", "sub", "$escape", "log"];

/// A message of a client's, as text.
fn message(pieces: &mut Pieces<'_>) -> Vec<u8> {
    let odd = String::from_utf8_lossy(pieces.raw(12)).into_owned();
    let token = if pieces.once_in(3) { odd.as_str() } else { pieces.pick(&["token", "\"quoted\"", "ä\u{1f680}", ""]) };
    let param = match pieces.below(4) {
        0 => json!({ "resume": token }),
        1 => json!({ "user": token, "resume": { "resume": token } }),
        2 => json!({ "$escape": { "resume": token } }),
        _ => json!([token, 7, null]),
    };
    let mut call = json!({ "msg": "method", "method": pieces.pick(&WORDS), "params": [param], "id": odd });
    if pieces.once_in(4) {
        call[pieces.pick(&WORDS)] = json!(pieces.pick(&WORDS));
    }
    let mut text = call.to_string();
    if pieces.once_in(3) {
        // Letters may be escapes.
        text = text.replace('l', "\\u006c");
    }
    match pieces.below(6) {
        0 => json!([text, "{\"msg\":\"ping\"}"]).to_string().into_bytes(),
        1 => json!(text).to_string().into_bytes(),
        2 => pieces.raw(60).to_vec(),
        // What JavaScript takes for the same text.
        3 => json!([[[text]], "{\"msg\":\"ping\"}"]).to_string().into_bytes(),
        _ => text.into_bytes(),
    }
}

/// The calls in a message, read by way of whole JSON values.
fn slowly(message: &[u8]) -> Option<Vec<(Option<String>, String)>> {
    fn tokens(param: &Value, depth: usize, into: &mut Vec<String>) {
        into.extend(param["resume"].as_str().map(str::to_owned));
        if depth > 0 && param.get("$escape").is_some() {
            tokens(&param["$escape"], depth - 1, into);
        }
    }
    fn as_text(value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            Value::Array(members) => members.iter().map(as_text).collect::<Vec<_>>().join(","),
            Value::Null => String::new(),
            Value::Object(_) => "[object Object]".to_owned(),
            other => other.to_string(),
        }
    }
    let text = String::from_utf8_lossy(message);
    let value: Value = serde_json::from_str(&text).ok()?;
    let calls = match value {
        Value::Array(list) => list.iter().map(as_text).filter_map(|one| serde_json::from_str::<Value>(&one).ok()).collect(),
        Value::String(one) => serde_json::from_str(&one).into_iter().collect(),
        object => vec![object],
    };
    let mut found = Vec::new();
    for call in calls.iter().filter(|call| call["msg"] == "method") {
        if call["method"] == "logout" {
            found.push((None, String::new()));
        } else if call["method"] == "login" {
            let mut all = Vec::new();
            for param in call["params"].as_array().into_iter().flatten() {
                tokens(param, 4, &mut all);
            }
            let id = call["id"].as_str().unwrap_or_default().to_owned();
            found.extend(all.into_iter().map(|token| (Some(token), id.clone())));
        }
    }
    Some(found)
}

/// The same as it is done in a tunnel.
fn quickly(message: &[u8]) -> Vec<(Option<String>, String)> {
    let mut found = Vec::new();
    ddp::calls(message, |call| {
        found.push(match call {
            Call::Login(resume) => (Some(resume.token.clone()), resume.id().to_owned()),
            Call::Logout => (None, String::new()),
        });
    });
    found
}

fn packed(text: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).expect("into memory");
    encoder.flush().expect("into memory");
    let packed = encoder.get_ref();
    packed[..packed.len() - 4].to_vec()
}

fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![first];
    if let Ok(short @ 0..=125) = u8::try_from(payload.len()) {
        frame.push(bit | short);
    } else {
        frame.push(bit | 0x7e);
        frame.extend(u16::try_from(payload.len()).expect("messages here are short").to_be_bytes());
    }
    frame.extend(mask.iter().flatten());
    frame.extend(payload.iter().zip(mask.unwrap_or_default().iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Choices: messages, how each is put into frames, and how the whole is cut. What is left is fed as it is behind them.
///
/// # Panics
/// A message is read otherwise than it was sent, a call in it is missed or made up, or more is kept than the limit
/// allows.
pub fn ddp(data: &[u8]) {
    let mut pieces = Pieces::new(data);
    let (mut stream, mut sent) = (Vec::new(), Vec::new());
    for _ in 0..pieces.below(4) {
        let text = message(&mut pieces);
        let compressed = pieces.once_in(2);
        let payload = if compressed { packed(&text) } else { text.clone() };
        let mask = if pieces.once_in(4) { None } else { Some([pieces.byte(), pieces.byte(), 7, 0]) };
        let bit = if compressed { 0x40 } else { 0 };
        let at = usize::from(pieces.byte()).min(payload.len());
        let (first, second) = payload.split_at(at);
        match pieces.below(3) {
            0 => stream.extend([frame(0x01 | bit, mask, first), frame(0x89, mask, b"x"), frame(0x80, mask, second)].concat()),
            1 => stream.extend([frame(0x02 | bit, mask, first), frame(0x00, mask, second), frame(0x80, mask, b"")].concat()),
            _ => stream.extend(frame(0x81 | bit, mask, &payload)),
        }
        sent.push(text);
    }
    for text in &sent {
        if let Some(slow) = slowly(text) {
            assert_eq!(quickly(text), slow, "{}", text.escape_ascii());
        }
    }
    let mut cuts = pieces;
    for pieces in [vec![stream.clone()], stream.chunks(1).map(<[u8]>::to_vec).collect(), cut(&stream, &mut cuts)] {
        let (mut messages, mut read) = (Messages::new(true, LIMIT, Memory::of(2 * LIMIT)), Vec::new());
        for piece in pieces {
            messages.feed(&piece, |message| match message {
                Message::Whole(text) => read.push(text.to_vec()),
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(read, sent);
        assert_eq!(messages.kept(), 0);
        // Anything may follow.
        messages.feed(data, |_| {});
        assert!(messages.kept() <= 2 * LIMIT);
    }
}
