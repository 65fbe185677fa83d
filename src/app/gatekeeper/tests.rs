//! The gatekeeper over a world that tests hold in their hands: no namespace, no rights, no sleep.

mod disk;
mod kernel;
mod people;
mod world;

mod commands;
mod doors;
mod guard;
mod hanging;
mod journal;
mod knocks;
mod listeners;
mod orders;
mod reload;
mod requests;
mod simulator;
