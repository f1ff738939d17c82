"""Virtual time: scenarios, discrete events over the session objects of both ends, and what a run counted."""
