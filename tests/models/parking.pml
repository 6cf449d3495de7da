/* The parking spot of shm/parking.hpp as a protocol, complete over all interleavings (sequentially
   consistent; the memory orders are parking_model.cpp's concern). Two wakers make an item each, two
   waiters take one each; word = {epoch, sleepers bit}. A lost wake-up is an invalid end state.
   MUTANT 1: the waiter does not look again after it announced itself.
   MUTANT 2: a wake does not change the word.
   MUTANT 3: the bit is taken away after the wake-up of all instead of before it. */
#ifndef MUTANT
#define MUTANT 0
#endif

byte items = 0;
byte epoch = 0;
bool marked = false; /* the sleepers bit */
byte asleep = 0; /* how many sleep in the kernel */
byte wakes = 0;  /* wake-ups handed out by the kernel, not yet taken */

inline kernel_wake(count, woken) {
  atomic {
    woken = (asleep < count -> asleep : count);
    asleep = asleep - woken;
    wakes = wakes + woken
  }
}

inline notify_one() {
  byte seen;
  byte woken;
  bool same;
  if
  :: marked ->
#if MUTANT != 2
     atomic { epoch++; seen = epoch };
#else
     seen = epoch;
#endif
     kernel_wake(1, woken);
     if
     :: woken == 0 -> /* nobody slept: take the bit away, then wake whoever fell asleep meanwhile */
#if MUTANT == 3
        kernel_wake(2, woken);
#endif
        atomic {
          same = (epoch == seen && marked);
          if
          :: same -> marked = false
          :: else
          fi;
#if MUTANT != 2
          epoch++
#endif
        };
#if MUTANT != 3
        kernel_wake(2, woken)
#endif
     :: else
     fi
  :: else
  fi
}

active [2] proctype waker() {
  items++;
  notify_one()
}

active [2] proctype waiter() {
  byte key;
  do
  :: atomic { items > 0 -> items--; break }
  :: items == 0 ->
     atomic { marked = true; key = epoch };
#if MUTANT != 1
     if
     :: atomic { items > 0 -> items--; break }
     :: items == 0
     fi;
#endif
     if
     :: atomic { epoch == key && marked -> asleep++ };
        atomic { wakes > 0 -> wakes-- }
     :: atomic { !(epoch == key && marked) }
     fi
  od
}
