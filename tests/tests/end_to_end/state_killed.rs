//! kill -9 in the midst of `wasmill state import` and `wasmill state rehash`: what is left is wholly the old
//! state or wholly the new one, and can be gone on from.

use wasmill_tests::Place;
use wasmill_tests::process::Wasmill;
use wasmill_tests::random::Random;

use crate::servers::RedisServer;

/// A user a message: so many that writing their state takes a while.
const USERS: usize = 40_000;
/// Into so many groups it is rehashed; it begins in 128.
const GROUPS: u32 = 7;

fn rounds() -> u32 {
    std::env::var("WASMILL_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12)
}

fn spec(state: &str) -> String {
    format!(
        "\
name: killed
source: {{ file: {{ path: input.jsonl }} }}
{state}
stages:
  - key_by: payload.user
  - transform: {{ plugin: stateful, grants: [state] }}
sink: {{ file: {{ path: out }} }}
"
    )
}

/// A place where a state is kept, and how it is made empty.
struct Home<'a> {
    place: &'a Place,
    empty: &'a dyn Fn(),
}

impl Home<'_> {
    fn state(&self, args: &[&str]) -> Wasmill {
        let (command, rest) = args.split_first().expect("a command");
        self.place.wasmill(["state", command, "pipeline.yaml"].into_iter().chain(rest.iter().copied()))
    }

    fn import(&self) -> Wasmill {
        self.state(&["import", "exported.jsonl"])
    }

    fn rehash(&self) -> Wasmill {
        self.state(&["rehash"]).env("WASMILL_KEY_GROUPS", GROUPS)
    }

    fn exported(&self) -> String {
        self.state(&["export"]).run().exits(0).stdout
    }

    /// Kills imports; answers how many were killed before they had ended, and how many of these left nothing.
    fn kill_imports(&self, random: &mut Random) -> (u32, u32) {
        (self.empty)();
        let lasted = self.import().run().exits(0).lasted;
        let exported = self.place.text("exported.jsonl");
        let (mut killed, mut empty) = (0, 0);
        for round in 0..rounds() {
            (self.empty)();
            let running = self.import().start();
            std::thread::sleep(random.millis(0, lasted.as_millis() as u64));
            let was_killed = running.kill().0;
            killed += u32::from(was_killed);
            let left = self.state(&["export"]).run();
            if left.code != Some(0) {
                assert!(was_killed, "round {round}: an import that ended left nothing");
                empty += 1;
                let told = format!("{}{}", left.stdout, left.stderr);
                let nothing = ["there is no state", "nothing is committed yet"];
                assert!(nothing.iter().any(|text| told.contains(text)), "round {round}: {told}");
                self.import().run().exits(0);
            }
            assert!(self.exported() == exported, "round {round}: it is another state");
        }
        (killed, empty)
    }

    /// Kills rehashes; answers how many were killed before they had ended, and how many of these left the old state.
    fn kill_rehashes(&self, random: &mut Random) -> (u32, u32) {
        let again = || {
            (self.empty)();
            self.import().run().exits(0);
        };
        again();
        let old = self.exported();
        let lasted = self.rehash().run().exits(0).lasted;
        let new = self.exported();
        assert!(old != new, "it has other groups now");
        let (mut killed, mut kept) = (0, 0);
        for round in 0..rounds() {
            again();
            let running = self.rehash().start();
            std::thread::sleep(random.millis(0, lasted.as_millis() as u64));
            let was_killed = running.kill().0;
            killed += u32::from(was_killed);
            let left = self.exported();
            if left == old {
                assert!(was_killed, "round {round}: a rehash that ended left the old state");
                kept += 1;
                self.rehash().run().exits(0);
            }
            assert!(self.exported() == new, "round {round}: it is neither the old state nor the new one");
        }
        let run = self.place.pipeline().env("WASMILL_KEY_GROUPS", GROUPS).arg("--json").run().exits(0);
        assert_eq!(run.summary()["read"], 0, "it goes on from the end");
        (killed, kept)
    }

    fn judge(&self, what: &str) {
        let mut random = Random::shown(what);
        let (imports, empty) = self.kill_imports(&mut random);
        let (rehashes, kept) = self.kill_rehashes(&mut random);
        println!(
            "{what}: {imports} imports killed, {empty} before they counted; {rehashes} rehashes, {kept} before"
        );
        assert!(empty > 0 && kept > 0, "none was killed in its midst: give it more state");
    }
}

/// A place with an export of some size in `exported.jsonl`.
fn place() -> Place {
    let place = Place::with_plugins(&["stateful"]);
    let line = |n: usize| {
        format!("{{\"id\":\"{n}\",\"type\":\"t\",\"payload\":{{\"user\":\"u{n}\"}},\"timestamp\":{n}}}\n")
    };
    place.file("input.jsonl", (0..USERS).map(line).collect::<String>());
    place.file("pipeline.yaml", spec("data_dir: first"));
    place.pipeline().run().exits(0);
    place.wasmill(["state", "export", "pipeline.yaml", "--output", "exported.jsonl"]).run().exits(0);
    place
}

#[test]
fn a_killed_import_or_rehash_on_disk_leaves_the_old_state_or_the_new_one() {
    let place = place();
    place.file("pipeline.yaml", spec("data_dir: data"));
    let empty = || {
        place.forget(&["data"]);
    };
    Home { place: &place, empty: &empty }.judge("killed tools on disk");
}

#[test]
fn a_killed_import_or_rehash_in_redis_leaves_the_old_state_or_the_new_one() {
    let Some(redis) = RedisServer::start("killed tools") else { return };
    let place = place();
    place.file("pipeline.yaml", spec(&format!("state: {{ redis: {{ url: \"{}\" }} }}", redis.url())));
    Home { place: &place, empty: &|| redis.say(&["FLUSHALL"]) }.judge("killed tools in Redis");
}
