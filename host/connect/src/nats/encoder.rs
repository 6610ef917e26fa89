//! Messages as a stream takes them: the JSON envelope as the payload, and beside it headers and the output id.

use std::sync::Arc;

use wasmill_engine::input::Header;
use wasmill_engine::output::{EncodedBatch, Encoder, OutputId};
use wasmill_frame::Message;

use super::sink::MessageHeaders;
use crate::Writer;
use crate::codec::{RecordWriter, Takes};

/// What the names of NATS's own headers begin with: they say what becomes of a message.
const OWN: &[u8] = b"nats-";

/// Writes messages for a stream.
pub(super) struct NatsEncoder {
    pub codec: Arc<dyn RecordWriter>,
    pub writer: Writer,
    pub headers: MessageHeaders,
}

impl Encoder for NatsEncoder {
    fn encode(&self, message: Message<'_>, id: &OutputId<'_>, into: &mut EncodedBatch) -> Result<(), String> {
        let start = into.data.len();
        let takes = Takes { headers: self.headers == MessageHeaders::Pass, tombstones: false };
        let mut encoded = self.codec.write(message, takes, into)?;
        let is_own = |h: &Header| {
            into.data[h.name.clone()].get(..OWN.len()).is_some_and(|n| n.eq_ignore_ascii_case(OWN))
        };
        encoded.headers.retain(|h| !is_own(h));
        for header in &mut encoded.headers {
            let value = header.value.get_or_insert(start..start).clone();
            if let Err(why) = check(&into.data[header.name.clone()], &into.data[value]) {
                into.data.truncate(start);
                return Err(why);
            }
        }
        let at = into.data.len();
        self.writer.write_id(id, &mut into.data);
        encoded.id = Some(at..into.data.len());
        into.records.push(encoded);
        Ok(())
    }
}

/// Whether NATS can carry a header.
fn check(name: &[u8], value: &[u8]) -> Result<(), String> {
    let shown = String::from_utf8_lossy(name);
    let is_name = !name.is_empty() && name.iter().all(|b| b.is_ascii_graphic() && *b != b':');
    if !is_name {
        return Err(format!(
            "the header name {shown:?} can't be one in NATS: it must be ASCII without spaces and colons; set `headers: none`, or name it otherwise where it comes from"
        ));
    }
    if std::str::from_utf8(value).is_err() || value.iter().any(|b| matches!(b, b'\r' | b'\n')) {
        return Err(format!(
            "the value of header {shown:?} can't be one in NATS: it must be text on one line; set `headers: none`, or leave it out where it comes from"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn no_header_holds_another() {
        for (name, value, is_one) in [
            (&b"trace"[..], &b"00-0af7"[..], true),
            (b"trace", b"", true),
            (b"", b"x", false),
            (b"x: y\r\nNats-Msg-Id", b"forged", false),
            (b"x:", b"y", false),
            (b"trace", b"x\r\nNats-Msg-Id: forged", false),
            (b"trace", b"x\nNats-Msg-Id: forged", false),
            (b"trace", b"\xff", false),
        ] {
            assert_eq!(check(name, value).is_ok(), is_one, "{:?}", String::from_utf8_lossy(name));
        }
    }
}
