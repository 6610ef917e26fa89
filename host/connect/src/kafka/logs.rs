//! librdkafka's log, read where it is written: what it has said of a call is there when the call returns.
//!
//! The client's Rust layer reads the log on another thread, some time later.
#![expect(unsafe_code, reason = "librdkafka's C interface is the only way to its log as a queue")]

use std::ffi::{CStr, c_char, c_int};
use std::ptr::{self, NonNull};

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;

/// A client's log. It must go before its client does.
pub(super) struct LogQueue(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues may be used from any thread, and by several at once.
unsafe impl Send for LogQueue {}
// SAFETY: as above.
unsafe impl Sync for LogQueue {}

impl LogQueue {
    /// Takes a client's log over: from now on it comes here alone.
    pub fn take_over<C: ClientContext>(client: &Client<C>) -> Option<Self> {
        let client = client.native_ptr();
        // SAFETY: the client is borrowed, so it is alive; the queue is ours until `drop`. librdkafka keeps a
        // reference of its own for as long as it logs to it.
        unsafe {
            let queue = NonNull::new(sys::rd_kafka_queue_new(client))?;
            let refused = sys::rd_kafka_set_log_queue(client, queue.as_ptr());
            let queue = Self(queue);
            (refused == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(queue)
        }
    }

    /// Reads what is there: level, facility, text.
    pub fn read(&self, mut each: impl FnMut(RDKafkaLogLevel, &str, &str)) {
        // SAFETY: the queue is alive. An event is ours until it is destroyed, here and once; its texts end in 0
        // and live as long as it does.
        unsafe {
            while let Some(event) = NonNull::new(sys::rd_kafka_queue_poll(self.0.as_ptr(), 0)) {
                let (mut facility, mut text): (*const c_char, *const c_char) = (ptr::null(), ptr::null());
                let mut level: c_int = 0;
                let found =
                    sys::rd_kafka_event_log(event.as_ptr(), &raw mut facility, &raw mut text, &raw mut level);
                if found == 0 && !facility.is_null() && !text.is_null() {
                    let (facility, text) = (CStr::from_ptr(facility), CStr::from_ptr(text));
                    each(level_of(level), &facility.to_string_lossy(), text.to_string_lossy().trim());
                }
                sys::rd_kafka_event_destroy(event.as_ptr());
            }
        }
    }
}

impl Drop for LogQueue {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody has it any more.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

/// syslog's levels.
fn level_of(level: c_int) -> RDKafkaLogLevel {
    match level {
        0 => RDKafkaLogLevel::Emerg,
        1 => RDKafkaLogLevel::Alert,
        2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        _ => RDKafkaLogLevel::Debug,
    }
}
