//! What a stand-in workspace holds from the start, so that the demo has something to show.

use bytes::Bytes;
use serde_json::{Value, json};

use super::meteor::{ejson_date, random_id};
use super::state::State;
use crate::demo::events::now_ms;

const MINUTE_MS: u64 = 60_000;

/// The file shown in the first room: only who is signed in may load it.
const BERTHS: &str = include_str!("../assets/berths.svg");

pub(super) fn fill(state: &mut State) {
    state.files.insert("berths/berths.svg".into(), ("image/svg+xml".into(), Bytes::from_static(BERTHS.as_bytes())));
    let (who, now) = (("harbour.master", "Harbour Master"), now_ms());
    let other = ("pilot.station", "Pilot Station");
    let lines = [
        ("general", who, "Morning all. *Meridian* is due at berth 4 at 09:40, tugs are ordered.", Some("/file-upload/berths/berths.svg")),
        ("general", other, "Pilot boards at the outer buoy, wind 12 knots from the west.", None),
        ("general", who, "Thanks. Crane 2 is back in service, please plan with both.", None),
        ("general", other, "Good. The tide turns at 11:15, departures go after that.", None),
        ("berth-planning", other, "Swap of berths 3 and 4 confirmed for Thursday.", None),
        ("weather", other, "Fog is likely between 04:00 and 07:00.", None),
        ("crane-crew", who, "Inspection is done, no findings.", None),
    ];
    let count = lines.len() as u64;
    for (n, (rid, by, text, image)) in (0_u64..).zip(lines) {
        state.messages.push(message(rid, by, text, image, now - (count - n) * 3 * MINUTE_MS));
    }
}

fn message(rid: &str, (username, name): (&str, &str), text: &str, image: Option<&str>, at: u64) -> Value {
    let mut message = json!({
        "_id": random_id(), "rid": rid, "msg": text, "ts": ejson_date(at), "u": { "_id": username, "username": username, "name": name },
    });
    if let Some(url) = image {
        message["attachments"] = json!([{ "image_url": url, "title": "Berths today" }]);
    }
    message
}
