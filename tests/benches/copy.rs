//! The measure of the Kafka figures: a bare librdkafka loop that copies one topic into another, as a
//! process of its own. It decodes nothing, keeps nothing, and commits as it goes.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord};

/// After how many messages delivery reports are served.
const SERVE_EVERY: u32 = 256;

/// Copies until it is killed.
pub fn run(address: &str, input: &str, output: &str) -> ! {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", format!("copy-{input}"))
        .set("auto.offset.reset", "earliest")
        .set("queued.min.messages", "1000000")
        .create()
        .unwrap_or_else(|e| panic!("the copy's consumer: {e}"));
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("enable.idempotence", "true")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .unwrap_or_else(|e| panic!("the copy's producer: {e}"));
    consumer.subscribe(&[input]).unwrap_or_else(|e| panic!("{input}: {e}"));
    let mut since_served = 0;
    loop {
        let polled = consumer.poll(Duration::from_millis(if since_served == 0 { 100 } else { 0 }));
        let Some(Ok(message)) = polled else {
            since_served = 0;
            producer.poll(Duration::ZERO);
            continue;
        };
        let record = BaseRecord::<[u8], [u8]>::to(output)
            .partition(message.partition())
            .payload(message.payload().unwrap_or_default());
        let mut record = match message.key() {
            Some(key) => record.key(key),
            None => record,
        };
        while let Err((error, refused)) = producer.send(record) {
            let full = matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
            assert!(full, "the copy can't write: {error}");
            producer.poll(Duration::from_millis(1));
            record = refused;
        }
        since_served += 1;
        if since_served >= SERVE_EVERY {
            since_served = 1;
            producer.poll(Duration::ZERO);
        }
    }
}
