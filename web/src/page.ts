// What every page runs: partial updates, values that arrive, and ages that tick. All of it is an addition: without it
// the pages are read and sent as they are.

import "htmx.org";

import { startAges } from "./ages";
import { startStreams } from "./live";

startAges();
startStreams();
