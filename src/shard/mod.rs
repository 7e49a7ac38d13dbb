//! The world of one core: owns everything above, answers mail, boots and drains.
