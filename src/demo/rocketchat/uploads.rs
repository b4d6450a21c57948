//! Uploads: `rooms.media/:rid` takes a multipart form with a file, `rooms.mediaConfirm/:rid/:fileId` posts it
//! to the room.

use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::envelope::ApiError;
use super::meteor::{ejson_date, random_id};
use super::rest::Call;
use super::state::State;
use crate::demo::events::now_ms;

/// `POST rooms.media/:rid`
pub(super) fn media(state: &mut State, call: &Call) -> Result<Value, ApiError> {
    call.caller()?;
    let file = file(call.header(CONTENT_TYPE.as_str()), &call.body).ok_or_else(|| ApiError::Failure("File required".into()))?;
    let id = random_id();
    let path = format!("{id}/{}", file.name);
    state.files.insert(path.clone(), (file.kind, file.bytes));
    Ok(json!({ "file": { "_id": id, "url": format!("/file-upload/{path}") } }))
}

/// `POST rooms.mediaConfirm/:rid/:fileId`
pub(super) fn confirm(state: &mut State, call: &Call, rid: &str, id: &str) -> Result<Value, ApiError> {
    let caller = call.caller()?;
    let start = format!("{id}/");
    let path = state.files.keys().find(|path| path.starts_with(&start)).cloned().ok_or_else(|| ApiError::params("invalid file"))?;
    let user = state.user_by_id(&caller.id);
    let message = json!({
        "_id": random_id(), "rid": rid, "msg": "", "ts": ejson_date(now_ms()),
        "u": { "_id": caller.id, "username": user.and_then(|u| u.username.as_ref()), "name": user.map(|u| &u.name) },
        "attachments": [{ "title": path[start.len()..], "title_link": format!("/file-upload/{path}") }],
    });
    state.messages.push(message.clone());
    Ok(json!({ "message": message }))
}

#[derive(Debug, PartialEq, Eq)]
struct File {
    name: String,
    kind: String,
    bytes: Bytes,
}

/// The part named `file` of a multipart form (RFC 7578).
fn file(content_type: &str, body: &Bytes) -> Option<File> {
    let boundary = content_type.strip_prefix("multipart/form-data")?.split(';').find_map(|p| p.trim().strip_prefix("boundary="))?;
    let delimiter = format!("\r\n--{}", boundary.trim_matches('"'));
    let mut rest = body.strip_prefix(&delimiter.as_bytes()[2..]).map(|rest| body.slice_ref(rest))?;
    while rest.starts_with(b"\r\n") {
        let end = find(&rest, delimiter.as_bytes())?;
        let part = rest.slice(2..end);
        rest = rest.slice(end + delimiter.len()..);
        let head_end = find(&part, b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&part[..head_end]).into_owned();
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let disposition = header("content-disposition")?;
        let parameter =
            |name: &str| disposition.split(';').find_map(|p| p.trim().strip_prefix(name)?.strip_prefix('=')).map(|v| v.trim_matches('"'));
        if parameter("name") == Some("file") {
            let kind = header("content-type").unwrap_or("application/octet-stream").to_owned();
            return Some(File { name: parameter("filename").unwrap_or("file").to_owned(), kind, bytes: part.slice(head_end + 4..) });
        }
    }
    None
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_found_among_the_parts() {
        let body = Bytes::from_static(
            b"--b\r\nContent-Disposition: form-data; name=\"msg\"\r\n\r\nhello\r\n\
              --b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\none\r\n--two\r\n--b--\r\n",
        );
        let found = File { name: "a.txt".into(), kind: "text/plain".into(), bytes: Bytes::from_static(b"one\r\n--two") };
        assert_eq!(file("multipart/form-data; boundary=b", &body), Some(found));
        assert_eq!(file("multipart/form-data; boundary=c", &body), None);
        assert_eq!(file("application/json", &body), None);
        assert_eq!(file("multipart/form-data; boundary=b", &body.slice(..90)), None);
    }
}
