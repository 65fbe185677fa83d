//! Both command lines, as clap reads them.
//! What they do is left to the other files of this floor.
