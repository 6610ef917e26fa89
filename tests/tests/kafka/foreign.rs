//! kcat, which is not ours, writes the input and reads the output.

use crate::broker::kcat;
use crate::world::{SERVICE, World, shared_broker};

#[test]
fn kcat_writes_the_input_and_reads_the_output() {
    let broker = shared_broker();
    let world = World::new(&broker, &SERVICE);
    let mut host = world.start_with(|service| service.env("DATA_DIR", "data"));
    let put = ["-P", "-t", &world.input(), "-p", "1", "-K", "|", "-H", "trace=abc"];
    let first = r#"{"id":"one","type":"click","payload":{"price":1.10,"big":12345678901234567890123},"timestamp":"2026-01-01T00:00:00+02:00","extra":[1]}"#;
    let second = r#"{"id":"two","type":"click","payload":null,"timestamp":1767225600000}"#;
    let third = r#"{"id":"three","type":"ignore","payload":1}"#;
    kcat(&world.address, &put, &format!("user-1|{first}\nuser-2|{third}\nuser-1|{second}\n"));
    // -Z: an empty value is none, a tombstone.
    kcat(&world.address, &["-P", "-Z", "-t", &world.input(), "-p", "1", "-K", "|"], "user-1|\n");
    let get = ["-C", "-e", "-q", "-t", &world.output(), "-o", "beginning", "-f", "%k|%h|%S|%s\n"];
    let mut read = String::new();
    host.running.until("three records", || {
        read = kcat(&world.address, &get, "");
        read.lines().count() == 3
    });
    let line = |start: &str| {
        read.lines().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("no {start} in {read}"))
    };
    let one = line("one|");
    for part in [
        "trace=abc",
        r#""price":1.10"#,
        "12345678901234567890123",
        "2026-01-01T00:00:00+02:00",
        r#""extra":[1]"#,
        r#""total_count":"1""#,
    ] {
        assert!(one.contains(part), "no {part} in {one}");
    }
    let two = line("two|");
    assert!(two.contains("1767225600000") && two.contains(r#""total_count":"2""#), "{two}");
    assert!(!read.contains("three"), "{read}");
    assert!(read.lines().any(|l| l.contains("|-1|")), "a tombstone: {read}");
}
