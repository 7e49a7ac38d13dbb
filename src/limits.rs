//! Every bound in the program, each with its reason. A bound that a user can set lives in
//! `config`; here are the others, and the defaults' ceilings.
