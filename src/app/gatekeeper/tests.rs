//! The gatekeeper in a simulated world that the tests control: no namespaces, no rights, no sleeps.

mod disk;
mod kernel;
mod people;
mod world;

mod closing;
mod commands;
mod crowd;
mod day;
mod doors;
mod foreseeing;
mod guard;
mod hanging;
mod joining;
mod journal;
mod knocks;
mod limits;
mod listeners;
mod orders;
mod reload;
mod requests;
mod simulator;
mod time;
mod trial;
mod walk;
mod xdp;
