//! Streams on a test's own Redis.

use wasmill_connect::redis_streams::{RedisSinkSpec, RedisSourceSpec};

use crate::servers::RedisServer;

/// Streams that tests read and write.
pub trait Streams {
    /// A source of a stream that has so many messages more, with the ids `0` and on; its group is `g`.
    fn source(&self, stream: &str, messages: usize) -> RedisSourceSpec;

    /// Adds messages with these ids to a stream.
    fn add(&self, stream: &str, ids: std::ops::Range<usize>);

    /// A sink of a stream; what it writes [`Self::written`] tells.
    fn sink(&self, stream: &str) -> RedisSinkSpec;

    /// What is in a stream that a sink writes: output id and message of each entry.
    fn written(&self, stream: &str) -> Vec<(String, String)>;
}

impl Streams for RedisServer {
    fn source(&self, stream: &str, messages: usize) -> RedisSourceSpec {
        self.add(stream, 0..messages);
        RedisSourceSpec { consumer: Some("one".to_owned()), ..RedisSourceSpec::new(self.url(), stream, "g") }
    }

    fn add(&self, stream: &str, ids: std::ops::Range<usize>) {
        let mut pipe = redis::pipe();
        // A pipe must have something in it.
        pipe.cmd("PING").ignore();
        for id in ids {
            let message = format!(r#"{{"id":"{id}","type":"t","payload":{{}}}}"#);
            pipe.cmd("XADD").arg(stream).arg("*").arg("message").arg(message).ignore();
        }
        pipe.exec(&mut self.connection()).expect("answers");
    }

    fn sink(&self, stream: &str) -> RedisSinkSpec {
        RedisSinkSpec::new(self.url(), stream)
    }

    fn written(&self, stream: &str) -> Vec<(String, String)> {
        let mut command = redis::cmd("XRANGE");
        command.arg(stream).arg("-").arg("+");
        let entries: Vec<(String, Vec<String>)> = command.query(&mut self.connection()).expect("entries");
        let entry = |fields: Vec<String>| {
            let [id, output, _, message] = fields.try_into().expect("two fields");
            assert_eq!(id, "id");
            (output, message)
        };
        entries.into_iter().map(|(_, fields)| entry(fields)).collect()
    }
}
