//! Programs of the admin's that run on events: one JSON line on standard input, one program at a
//! time, in a thread of their own. A hook delays nothing: what finds no room is left out and
//! counted.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::log::{LogEvent, json_line};
use super::worker;
use crate::config::Hook;
use crate::core::event::EventKind;
use crate::core::quota::{Bucket, Rate};
use crate::core::types::Now;

/// How often one hook may run.
const RATE: Rate = Rate { burst: 32, per_second: 1 };
/// Runs that wait.
const QUEUE: usize = 64;
/// A program that takes longer is killed, with what it has started.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);

/// One run of a hook.
struct HookRun {
    name: String,
    argv: Vec<String>,
    line: String,
}

/// The hooks in force, and how often each has run.
pub struct Hooks {
    hooks: Vec<Hook>,
    runs: BTreeMap<String, HookRuns>,
    sender: Option<SyncSender<HookRun>>,
}

#[derive(Default)]
struct HookRuns {
    bucket: Bucket,
    /// Runs that were left out since the last one that was not.
    left_out: u64,
}

impl Hooks {
    /// `tell` gets what goes wrong with a hook. The thread starts if there are hooks.
    pub fn start(hooks: Vec<Hook>, tell: impl Fn(LogEvent) + Send + 'static) -> Hooks {
        let (sender, receiver) = sync_channel(QUEUE);
        let started = worker::spawn("hooks", move || run_all(&receiver, &tell));
        // Without a thread no hook runs; the gateway serves all the same.
        Hooks { hooks, runs: BTreeMap::new(), sender: started.ok().map(|_| sender) }
    }

    /// These hooks count from now on.
    pub fn set(&mut self, hooks: Vec<Hook>) {
        self.runs.retain(|name, _| hooks.iter().any(|hook| hook.name == *name));
        self.hooks = hooks;
    }

    /// Has the hooks of this event run. Never waits. Returns what to log of it.
    pub fn event(&mut self, now: Now, event: &LogEvent) -> Vec<LogEvent> {
        let mut notes = Vec::new();
        let Some(sender) = &self.sender else { return notes };
        for hook in self.hooks.iter().filter(|hook| hook.events.contains(&event.kind)) {
            let runs = self.runs.entry(hook.name.clone()).or_default();
            let run = HookRun {
                name: hook.name.clone(),
                argv: hook.run.clone(),
                line: json_line(now.wall, event),
            };
            if !runs.bucket.take(now.boot, RATE) || sender.try_send(run).is_err() {
                runs.left_out = runs.left_out.saturating_add(1);
            } else if let count @ 1.. = std::mem::take(&mut runs.left_out) {
                let text = format!("hook {}: {count} events were left out (rate limit)", hook.name);
                notes.push(LogEvent::new(EventKind::Limit, text));
            }
        }
        notes
    }
}

fn run_all(runs: &Receiver<HookRun>, tell: &dyn Fn(LogEvent)) {
    // A hook that fails each time is told once.
    let mut failing = BTreeMap::new();
    while let Ok(run) = runs.recv() {
        let failure = perform(&run).err();
        if let Some(why) = &failure
            && failing.get(&run.name) != Some(&failure)
        {
            let text = format!("hook {}: {why}", run.name);
            tell(LogEvent::new(EventKind::Warning, text).failed());
        }
        failing.insert(run.name, failure);
    }
}

/// Runs the program to its end, or to that of our patience.
fn perform(run: &HookRun) -> Result<(), String> {
    let Some((program, arguments)) = run.argv.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.current_dir("/").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let mut child =
        command.spawn().map_err(|error| format!("{program} cannot be started: {error}"))?;
    // A line fits into a pipe that nobody reads. A program need not read it.
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(run.line.as_bytes());
    }
    wait(&mut child, PATIENCE).map_err(|why| format!("{program} {why}"))
}

fn wait(child: &mut Child, patience: Duration) -> Result<(), String> {
    let end = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("failed: {status}")),
            Ok(None) if Instant::now() < end => std::thread::sleep(LOOK),
            Ok(None) | Err(_) => break,
        }
    }
    // Not reaped yet, so the pid still belongs to it, and so does the group.
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = child.wait();
    Err(format!("took longer than {} s and was killed", patience.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::core::event::Level;
    use crate::core::types::{Boot, SECOND, Wall};

    fn hook(name: &str, events: &[EventKind], run: &[&str]) -> Hook {
        let run = run.iter().map(|word| (*word).to_owned()).collect();
        Hook { name: name.to_owned(), events: events.to_vec(), run }
    }

    fn now(second: u64) -> Now {
        Now { wall: Wall(second * SECOND), boot: Boot(second * SECOND) }
    }

    fn event(kind: EventKind, text: &str) -> LogEvent {
        LogEvent::new(kind, text).client("anna")
    }

    #[test]
    fn a_hook_reads_its_events_as_json_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("seen");
        let script = format!("cat >>{}", file.display());
        let hooks = vec![hook("x", &[EventKind::Refused], &["/bin/sh", "-c", &script])];
        let (sender, told) = mpsc::channel();
        let mut hooks = Hooks::start(hooks, move |event| drop(sender.send(event)));
        assert!(hooks.event(now(1), &event(EventKind::Granted, "no")).is_empty());
        assert!(hooks.event(now(1), &event(EventKind::Refused, "yes")).is_empty());
        // The end of the thread, after all runs.
        drop(hooks);
        assert!(told.recv_timeout(Duration::from_secs(20)).is_err(), "nothing went wrong");
        let seen = std::fs::read_to_string(file).unwrap();
        assert_eq!(seen, json_line(now(1).wall, &event(EventKind::Refused, "yes")));
    }

    #[test]
    fn a_flood_of_events_runs_a_hook_at_its_rate_and_what_was_left_out_is_told() {
        let (_held, receiver) = sync_channel::<HookRun>(QUEUE);
        drop(receiver);
        let (sender, runs) = sync_channel(QUEUE);
        let hooks = vec![hook("x", &[EventKind::Door], &["/bin/true"])];
        let mut hooks = Hooks { hooks, runs: BTreeMap::new(), sender: Some(sender) };
        let door = event(EventKind::Door, "knock");
        for _ in 0..1000 {
            assert!(hooks.event(now(1), &door).is_empty());
        }
        assert_eq!(runs.try_iter().count(), 32);
        let [note] = &hooks.event(now(2), &door)[..] else { panic!("one note") };
        assert_eq!(note.text, "hook x: 968 events were left out (rate limit)");
        // With nobody who takes them, the queue is as long as it may be.
        for second in 0..1000 {
            hooks.event(now(3 + second), &door);
        }
        assert_eq!(runs.try_iter().count(), QUEUE);
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_what_it_started_and_one_that_fails_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 60 & echo $! >{0}.new; mv {0}.new {0}; wait", file.display());
        let mut child =
            Command::new("/bin/sh").args(["-c", &script]).process_group(0).spawn().unwrap();
        let begun = Instant::now();
        while !file.exists() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it hangs");
            std::thread::yield_now();
        }
        let why = wait(&mut child, Duration::ZERO).unwrap_err();
        assert_eq!(why, "took longer than 0 s and was killed");
        let stat = format!("/proc/{}/stat", std::fs::read_to_string(file).unwrap().trim());
        let lives = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z"));
        while lives() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it lives on");
            std::thread::yield_now();
        }
        let run = |argv: &[&str]| {
            let argv = argv.iter().map(|word| (*word).to_owned()).collect();
            perform(&HookRun { name: "x".to_owned(), argv, line: "{}\n".to_owned() })
        };
        assert_eq!(
            run(&["/bin/sh", "-c", "exit 3"]).unwrap_err(),
            "/bin/sh failed: exit status: 3"
        );
        assert!(run(&["/no/such/program"]).unwrap_err().contains("cannot be started"));
        // It need not read what it is told.
        assert_eq!(run(&["/bin/true"]), Ok(()));
    }

    #[test]
    fn a_program_gets_its_words_as_they_are_and_nothing_of_our_environment() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("seen").display().to_string();
        let script = format!("{{ echo \"$1\"; pwd; cat /proc/$$/environ; }} >{file}");
        let argv = ["/bin/sh", "-c", &script, "x", "a  b $(c)"].map(str::to_owned).to_vec();
        let run = HookRun { name: "x".to_owned(), argv, line: String::new() };
        assert_eq!(perform(&run), Ok(()));
        let seen = std::fs::read_to_string(file).unwrap();
        assert_eq!(seen, "a  b $(c)\n/\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\0");
    }

    #[test]
    fn a_hook_that_fails_is_told_once_until_it_works_again() {
        let (sender, runs) = sync_channel(QUEUE);
        for code in [3, 3, 0, 3, 4] {
            let argv = ["/bin/sh", "-c", &format!("exit {code}")].map(str::to_owned).to_vec();
            let run = HookRun { name: "x".to_owned(), argv, line: String::new() };
            sender.send(run).unwrap();
        }
        drop(sender);
        let (teller, told) = mpsc::channel();
        run_all(&runs, &|event| teller.send(event).unwrap());
        let told: Vec<LogEvent> = told.try_iter().collect();
        let texts: Vec<&str> = told.iter().map(|event| event.text.as_str()).collect();
        let [three, four] =
            [3, 4].map(|code| format!("hook x: /bin/sh failed: exit status: {code}"));
        assert_eq!(texts, [&three, &three, &four]);
        assert!(told.iter().all(|event| event.level == Level::Err));
    }

    #[test]
    fn after_a_reload_its_hooks_count_and_no_others() {
        let (sender, runs) = sync_channel(QUEUE);
        let hooks = vec![hook("old", &[EventKind::Door], &["/bin/true"])];
        let mut hooks = Hooks { hooks, runs: BTreeMap::new(), sender: Some(sender) };
        hooks.set(vec![hook("new", &[EventKind::Door, EventKind::Alarm], &["/bin/true"])]);
        hooks.event(now(1), &event(EventKind::Door, "knock"));
        let names: Vec<String> = runs.try_iter().map(|run| run.name).collect();
        assert_eq!(names, ["new"]);
    }
}
