//! The classic state machine: doors x sources, as knockd 0.8 judges hits.
//! Packets are left to `packet`, commands to `edge::command`.
