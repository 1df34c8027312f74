"""What a node does so that memory which it has freed goes back to the system, where the C library is glibc."""

import ctypes

import trio

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of glibc's mallopt
TRIM_S = 10.0


def give_back_freed_memory() -> None:
    """From now on every block above 128 KiB, a batch as well as a layer, returns to the system when it is freed.

    By default glibc learns to keep blocks of up to 32 MiB, in an arena for every few threads: a model's layers, freed
    one by one, would stay, and batches would find no room among small objects and lengthen the heap round by round.
    To be called before the first model is made; later it is too late: what it trims, the next model fills again, since
    a free place in an arena is taken before anything is mapped.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(M_MMAP_THRESHOLD, 128 << 10)
        library.mallopt(M_ARENA_MAX, 2)
        library.malloc_trim(0)


async def keep_trimming() -> None:
    """Gives back the free pages between what is used, every ten seconds, for ever.

    Smaller buffers come and go among objects that stay, so that what lies free grows round by round.
    """
    library = _glibc()
    while library is not None:
        await trio.to_thread.run_sync(library.malloc_trim, 0)
        await trio.sleep(TRIM_S)


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
