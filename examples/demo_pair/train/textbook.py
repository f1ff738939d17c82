"""Short textbook functions, written for the demo pair, that its training sees often.

They are what people ask a demo for. None was taken from a benchmark; the file is training text first, so it
prefers plain code to clever code.
"""

# ruff: noqa


def fibonacci(n: int) -> int:
    """Return the n-th Fibonacci number.

    >>> fibonacci(10)
    55
    """
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def fibonacci_list(n: int) -> list[int]:
    """Return a list of the first n Fibonacci numbers.

    >>> fibonacci_list(6)
    [0, 1, 1, 2, 3, 5]
    """
    result = []
    a, b = 0, 1
    for _ in range(n):
        result.append(a)
        a, b = b, a + b
    return result


def factorial(n: int) -> int:
    """Return the factorial of n.

    >>> factorial(5)
    120
    """
    result = 1
    for i in range(2, n + 1):
        result *= i
    return result


def is_prime(n: int) -> bool:
    """Return True if n is a prime number.

    >>> is_prime(7)
    True
    """
    if n < 2:
        return False
    i = 2
    while i * i <= n:
        if n % i == 0:
            return False
        i += 1
    return True


def primes(n: int) -> list[int]:
    """Return all prime numbers up to n.

    >>> primes(10)
    [2, 3, 5, 7]
    """
    result = []
    for number in range(2, n + 1):
        if all(number % p != 0 for p in result):
            result.append(number)
    return result


def sieve(limit: int) -> list[int]:
    """Return the primes below limit with the sieve of Eratosthenes."""
    is_prime = [True] * limit
    result = []
    for i in range(2, limit):
        if is_prime[i]:
            result.append(i)
            for j in range(i * i, limit, i):
                is_prime[j] = False
    return result


def prime_factors(n: int) -> list[int]:
    """Return the prime factors of n in increasing order.

    >>> prime_factors(12)
    [2, 2, 3]
    """
    factors = []
    divisor = 2
    while n > 1:
        while n % divisor == 0:
            factors.append(divisor)
            n //= divisor
        divisor += 1
    return factors


def gcd(a: int, b: int) -> int:
    """Return the greatest common divisor of a and b.

    >>> gcd(12, 18)
    6
    """
    while b:
        a, b = b, a % b
    return a


def lcm(a: int, b: int) -> int:
    """Return the least common multiple of a and b."""
    x, y = a, b
    while y:
        x, y = y, x % y
    return a * b // x


def power(base: int, exponent: int) -> int:
    """Raise base to the power of exponent by repeated squaring."""
    result = 1
    while exponent > 0:
        if exponent % 2 == 1:
            result *= base
        base *= base
        exponent //= 2
    return result


def add(a: int, b: int) -> int:
    """Return the sum of two numbers."""
    result = a + b
    return result


def multiply(a: int, b: int) -> int:
    """Return the product of two numbers."""
    result = a * b
    return result


def is_even(n: int) -> bool:
    """Return True if n is even."""
    remainder = n % 2
    return remainder == 0


def is_odd(n: int) -> bool:
    """Return True if n is odd."""
    remainder = n % 2
    return remainder == 1


def absolute(x: float) -> float:
    """Return the absolute value of x."""
    if x < 0:
        return -x
    return x


def sign(x: float) -> int:
    """Return 1 if x is positive, -1 if it is negative and 0 otherwise."""
    if x > 0:
        return 1
    if x < 0:
        return -1
    return 0


def clamp(x: float, low: float, high: float) -> float:
    """Limit x to the range from low to high."""
    if x < low:
        return low
    if x > high:
        return high
    return x


def square_root(x: float) -> float:
    """Return the square root of x by Newton's method."""
    guess = x
    while abs(guess * guess - x) > 1e-9:
        guess = (guess + x / guess) / 2
    return guess


def digit_sum(n: int) -> int:
    """Return the sum of the digits of n.

    >>> digit_sum(123)
    6
    """
    total = 0
    while n > 0:
        total += n % 10
        n //= 10
    return total


def count_digits(n: int) -> int:
    """Return the number of digits of n."""
    count = 0
    for digit in str(abs(n)):
        count += 1
    return count


def reverse_number(n: int) -> int:
    """Return n with its digits in reverse order."""
    result = 0
    while n > 0:
        result = result * 10 + n % 10
        n //= 10
    return result


def divisors(n: int) -> list[int]:
    """Return all divisors of n.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    result = []
    for i in range(1, n + 1):
        if n % i == 0:
            result.append(i)
    return result


def is_perfect(n: int) -> bool:
    """Check if n equals the sum of its proper divisors."""
    total = 0
    for i in range(1, n):
        if n % i == 0:
            total += i
    return total == n


def is_leap_year(year: int) -> bool:
    """Return True if year is a leap year."""
    if year % 400 == 0:
        return True
    if year % 100 == 0:
        return False
    return year % 4 == 0


def collatz(n: int) -> list[int]:
    """Return the Collatz sequence that starts at n."""
    sequence = [n]
    while n != 1:
        if n % 2 == 0:
            n = n // 2
        else:
            n = 3 * n + 1
        sequence.append(n)
    return sequence


def binomial(n: int, k: int) -> int:
    """Return the number of ways to choose k items from n."""
    result = 1
    for i in range(k):
        result = result * (n - i) // (i + 1)
    return result


def pascal_triangle(n: int) -> list[list[int]]:
    """Return the first n rows of Pascal's triangle."""
    rows = []
    row = [1]
    for _ in range(n):
        rows.append(row)
        row = [1] + [a + b for a, b in zip(row, row[1:])] + [1]
    return rows


def to_binary(n: int) -> str:
    """Return the binary representation of n as a string.

    >>> to_binary(6)
    '110'
    """
    if n == 0:
        return "0"
    digits = ""
    while n > 0:
        digits = str(n % 2) + digits
        n //= 2
    return digits


def from_binary(text: str) -> int:
    """Convert a string of binary digits to a number."""
    result = 0
    for digit in text:
        result = result * 2 + int(digit)
    return result


def count_bits(n: int) -> int:
    """Count the bits that are set in n."""
    count = 0
    while n:
        n &= n - 1
        count += 1
    return count


def roman(n: int) -> str:
    """Convert a number to a Roman numeral."""
    values = [1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1]
    symbols = ["M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I"]
    result = ""
    for value, symbol in zip(values, symbols):
        while n >= value:
            result += symbol
            n -= value
    return result


def sum_list(numbers: list[int]) -> int:
    """Return the sum of a list of numbers.

    >>> sum_list([1, 2, 3])
    6
    """
    total = 0
    for number in numbers:
        total += number
    return total


def product(numbers: list[int]) -> int:
    """Return the product of all numbers in a list."""
    result = 1
    for number in numbers:
        result *= number
    return result


def average(numbers: list[float]) -> float:
    """Return the average of a list of numbers.

    >>> average([1, 2, 3])
    2.0
    """
    if not numbers:
        return 0.0
    return sum(numbers) / len(numbers)


def mean(numbers: list[float]) -> float:
    """Compute the arithmetic mean of a list of numbers."""
    total = sum(numbers)
    return total / len(numbers)


def median(numbers: list[float]) -> float:
    """Return the median of a list of numbers."""
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def mode(numbers: list[int]) -> int:
    """Return the most frequent number in a list."""
    counts = {}
    for number in numbers:
        counts[number] = counts.get(number, 0) + 1
    return max(counts, key=counts.get)


def variance(numbers: list[float]) -> float:
    """Return the variance of a list of numbers."""
    mean = sum(numbers) / len(numbers)
    return sum((x - mean) ** 2 for x in numbers) / len(numbers)


def standard_deviation(numbers: list[float]) -> float:
    """Return the standard deviation of a list of numbers."""
    mean = sum(numbers) / len(numbers)
    variance = sum((x - mean) ** 2 for x in numbers) / len(numbers)
    return variance**0.5


def maximum(numbers: list[int]) -> int:
    """Return the largest number in a list.

    >>> maximum([3, 8, 5])
    8
    """
    largest = numbers[0]
    for number in numbers[1:]:
        if number > largest:
            largest = number
    return largest


def minimum(numbers: list[int]) -> int:
    """Return the smallest number in a list."""
    smallest = numbers[0]
    for number in numbers[1:]:
        if number < smallest:
            smallest = number
    return smallest


def second_largest(numbers: list[int]) -> int:
    """Return the second largest number in a list."""
    ordered = sorted(set(numbers))
    return ordered[-2]


def count(items: list, value: object) -> int:
    """Count how often value occurs in a list."""
    result = 0
    for item in items:
        if item == value:
            result += 1
    return result


def reverse_list(items: list) -> list:
    """Return a list with its items in reverse order."""
    result = []
    for item in items:
        result.insert(0, item)
    return result


def remove_duplicates(items: list) -> list:
    """Remove the duplicates from a list and keep the order.

    >>> remove_duplicates([1, 2, 1, 3])
    [1, 2, 3]
    """
    seen = set()
    result = []
    for item in items:
        if item not in seen:
            seen.add(item)
            result.append(item)
    return result


def flatten(items: list) -> list:
    """Flatten a nested list.

    >>> flatten([1, [2, [3]]])
    [1, 2, 3]
    """
    result = []
    for item in items:
        if isinstance(item, list):
            result.extend(flatten(item))
        else:
            result.append(item)
    return result


def chunk(items: list, size: int) -> list[list]:
    """Split a list into chunks of the given size.

    >>> chunk([1, 2, 3, 4, 5], 2)
    [[1, 2], [3, 4], [5]]
    """
    result = []
    for i in range(0, len(items), size):
        result.append(items[i : i + size])
    return result


def rotate_list(items: list, k: int) -> list:
    """Rotate a list to the right by k places."""
    if not items:
        return items
    k = k % len(items)
    return items[-k:] + items[:-k]


def is_sorted(items: list) -> bool:
    """Check if a list is sorted in ascending order."""
    for i in range(len(items) - 1):
        if items[i] > items[i + 1]:
            return False
    return True


def common_elements(a: list, b: list) -> list:
    """Return the elements that two lists have in common."""
    result = []
    for item in a:
        if item in b and item not in result:
            result.append(item)
    return result


def even_numbers(numbers: list[int]) -> list[int]:
    """Return the even numbers of a list.

    >>> even_numbers([1, 2, 3, 4])
    [2, 4]
    """
    result = []
    for number in numbers:
        if number % 2 == 0:
            result.append(number)
    return result


def odd_numbers(numbers: list[int]) -> list[int]:
    """Return the odd numbers of a list."""
    result = []
    for number in numbers:
        if number % 2 == 1:
            result.append(number)
    return result


def positive_numbers(numbers: list[int]) -> list[int]:
    """Return only the positive numbers of a list."""
    result = []
    for number in numbers:
        if number > 0:
            result.append(number)
    return result


def squares(numbers: list[int]) -> list[int]:
    """Return a list of the squares of the given numbers."""
    result = []
    for number in numbers:
        result.append(number * number)
    return result


def sum_of_squares(n: int) -> int:
    """Return the sum of the squares of the numbers from 1 to n."""
    total = 0
    for i in range(1, n + 1):
        total += i * i
    return total


def cumulative_sum(numbers: list[int]) -> list[int]:
    """Return the list of running totals of the numbers."""
    result = []
    total = 0
    for number in numbers:
        total += number
        result.append(total)
    return result


def differences(numbers: list[int]) -> list[int]:
    """Return the differences between neighbouring numbers."""
    result = []
    for i in range(1, len(numbers)):
        result.append(numbers[i] - numbers[i - 1])
    return result


def two_sum(numbers: list[int], target: int) -> list[int]:
    """Return the indices of two numbers that add up to target."""
    seen = {}
    for i, number in enumerate(numbers):
        if target - number in seen:
            return [seen[target - number], i]
        seen[number] = i
    return []


def max_subarray(numbers: list[int]) -> int:
    """Return the largest sum of a contiguous subarray."""
    best = current = numbers[0]
    for number in numbers[1:]:
        current = max(number, current + number)
        best = max(best, current)
    return best


def partition(numbers: list[int], pivot: int) -> tuple[list[int], list[int]]:
    """Split a list into the numbers below pivot and the others."""
    small, large = [], []
    for number in numbers:
        if number < pivot:
            small.append(number)
        else:
            large.append(number)
    return small, large


def linear_search(items: list, target: object) -> int:
    """Return the index of target in a list, or -1 if it is not there."""
    for i, item in enumerate(items):
        if item == target:
            return i
    return -1


def binary_search(items: list[int], target: int) -> int:
    """Return the index of target in a sorted list, or -1 if it is not there.

    >>> binary_search([1, 3, 5, 7], 5)
    2
    """
    low, high = 0, len(items) - 1
    while low <= high:
        middle = (low + high) // 2
        if items[middle] == target:
            return middle
        if items[middle] < target:
            low = middle + 1
        else:
            high = middle - 1
    return -1


def bubble_sort(items: list[int]) -> list[int]:
    """Sort a list with bubble sort."""
    n = len(items)
    for i in range(n):
        for j in range(n - i - 1):
            if items[j] > items[j + 1]:
                items[j], items[j + 1] = items[j + 1], items[j]
    return items


def insertion_sort(items: list[int]) -> list[int]:
    """Sort a list with insertion sort."""
    for i in range(1, len(items)):
        value = items[i]
        j = i - 1
        while j >= 0 and items[j] > value:
            items[j + 1] = items[j]
            j -= 1
        items[j + 1] = value
    return items


def selection_sort(items: list[int]) -> list[int]:
    """Sort a list with selection sort."""
    for i in range(len(items)):
        smallest = i
        for j in range(i + 1, len(items)):
            if items[j] < items[smallest]:
                smallest = j
        items[i], items[smallest] = items[smallest], items[i]
    return items


def quicksort(items: list[int]) -> list[int]:
    """Sort a list with the quicksort algorithm.

    >>> quicksort([3, 1, 2])
    [1, 2, 3]
    """
    if len(items) <= 1:
        return items
    pivot = items[0]
    smaller = [x for x in items[1:] if x < pivot]
    larger = [x for x in items[1:] if x >= pivot]
    return quicksort(smaller) + [pivot] + quicksort(larger)


def merge(a: list[int], b: list[int]) -> list[int]:
    """Merge two sorted lists into one sorted list."""
    result = []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] <= b[j]:
            result.append(a[i])
            i += 1
        else:
            result.append(b[j])
            j += 1
    return result + a[i:] + b[j:]


def merge_sort(items: list[int]) -> list[int]:
    """Sort a list with merge sort."""
    if len(items) <= 1:
        return items
    middle = len(items) // 2
    left = merge_sort(items[:middle])
    right = merge_sort(items[middle:])
    result = []
    while left and right:
        if left[0] <= right[0]:
            result.append(left.pop(0))
        else:
            result.append(right.pop(0))
    return result + left + right


def transpose(matrix: list[list[int]]) -> list[list[int]]:
    """Return the transpose of a matrix."""
    rows, columns = len(matrix), len(matrix[0])
    result = []
    for j in range(columns):
        result.append([matrix[i][j] for i in range(rows)])
    return result


def matrix_multiply(a: list[list[int]], b: list[list[int]]) -> list[list[int]]:
    """Multiply two matrices."""
    result = [[0] * len(b[0]) for _ in a]
    for i in range(len(a)):
        for j in range(len(b[0])):
            for k in range(len(b)):
                result[i][j] += a[i][k] * b[k][j]
    return result


def identity_matrix(n: int) -> list[list[int]]:
    """Return the identity matrix of size n."""
    matrix = [[0] * n for _ in range(n)]
    for i in range(n):
        matrix[i][i] = 1
    return matrix


def dot_product(a: list[float], b: list[float]) -> float:
    """Return the dot product of two vectors."""
    total = 0
    for x, y in zip(a, b):
        total += x * y
    return total


def distance(p: tuple[float, float], q: tuple[float, float]) -> float:
    """Return the Euclidean distance between two points."""
    dx = p[0] - q[0]
    dy = p[1] - q[1]
    return (dx * dx + dy * dy) ** 0.5


def triangle_area(base: float, height: float) -> float:
    """Return the area of a triangle."""
    area = base * height / 2
    return area


def circle_area(radius: float) -> float:
    """Return the area of a circle with the given radius."""
    pi = 3.141592653589793
    return pi * radius * radius


def celsius_to_fahrenheit(celsius: float) -> float:
    """Convert a temperature from Celsius to Fahrenheit."""
    fahrenheit = celsius * 9 / 5 + 32
    return fahrenheit


def fahrenheit_to_celsius(fahrenheit: float) -> float:
    """Convert a temperature from Fahrenheit to Celsius."""
    celsius = (fahrenheit - 32) * 5 / 9
    return celsius


def reverse_string(text: str) -> str:
    """Return the given string in reverse order.

    >>> reverse_string("abc")
    'cba'
    """
    result = ""
    for char in text:
        result = char + result
    return result


def is_palindrome(text: str) -> bool:
    """Return True if a string reads the same forwards and backwards.

    >>> is_palindrome("level")
    True
    """
    cleaned = [char.lower() for char in text if char.isalnum()]
    return cleaned == cleaned[::-1]


def count_vowels(text: str) -> int:
    """Return the number of vowels in a string.

    >>> count_vowels("hello")
    2
    """
    count = 0
    for char in text.lower():
        if char in "aeiou":
            count += 1
    return count


def remove_vowels(text: str) -> str:
    """Remove the vowels from a string."""
    result = ""
    for char in text:
        if char.lower() not in "aeiou":
            result += char
    return result


def count_words(text: str) -> int:
    """Return the number of words in a text."""
    words = text.split()
    return len(words)


def word_count(text: str) -> dict[str, int]:
    """Count how often each word occurs in a text.

    >>> word_count("a b a")
    {'a': 2, 'b': 1}
    """
    counts = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    return counts


def char_count(text: str) -> dict[str, int]:
    """Count how often each character occurs in a string."""
    counts = {}
    for char in text:
        counts[char] = counts.get(char, 0) + 1
    return counts


def most_common(items: list) -> object:
    """Return the most common item of a list."""
    counts = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return max(counts, key=counts.get)


def longest_word(text: str) -> str:
    """Return the longest word of a sentence."""
    longest = ""
    for word in text.split():
        if len(word) > len(longest):
            longest = word
    return longest


def reverse_words(text: str) -> str:
    """Reverse the order of the words in a sentence."""
    words = text.split()
    return " ".join(reversed(words))


def capitalize_words(text: str) -> str:
    """Capitalize the first letter of each word."""
    words = []
    for word in text.split():
        words.append(word[0].upper() + word[1:])
    return " ".join(words)


def swap_case(text: str) -> str:
    """Change upper case letters to lower case and the other way round."""
    result = ""
    for char in text:
        if char.isupper():
            result += char.lower()
        else:
            result += char.upper()
    return result


def is_anagram(a: str, b: str) -> bool:
    """Check if two words are anagrams of each other.

    >>> is_anagram("listen", "silent")
    True
    """
    first = sorted(a.lower())
    second = sorted(b.lower())
    return first == second


def caesar_cipher(text: str, shift: int) -> str:
    """Encrypt a text with the Caesar cipher."""
    result = ""
    for char in text:
        if char.isalpha():
            start = ord("A") if char.isupper() else ord("a")
            result += chr((ord(char) - start + shift) % 26 + start)
        else:
            result += char
    return result


def run_length_encode(text: str) -> str:
    """Compress a string with run-length encoding.

    >>> run_length_encode("aaab")
    'a3b1'
    """
    result = ""
    i = 0
    while i < len(text):
        j = i
        while j < len(text) and text[j] == text[i]:
            j += 1
        result += text[i] + str(j - i)
        i = j
    return result


def starts_with(words: list[str], letter: str) -> list[str]:
    """Return the words that start with the given letter."""
    result = []
    for word in words:
        if word.startswith(letter):
            result.append(word)
    return result


def contains_substring(words: list[str], part: str) -> list[str]:
    """Return the strings of a list that contain the given part."""
    result = []
    for word in words:
        if part in word:
            result.append(word)
    return result


def longest_common_prefix(words: list[str]) -> str:
    """Return the longest common prefix of a list of strings."""
    if not words:
        return ""
    prefix = words[0]
    for word in words[1:]:
        while not word.startswith(prefix):
            prefix = prefix[:-1]
    return prefix


def edit_distance(a: str, b: str) -> int:
    """Return the edit distance between two strings."""
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        current = [i]
        for j, y in enumerate(b, 1):
            cost = 0 if x == y else 1
            current.append(min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + cost))
        previous = current
    return previous[-1]


def hamming_distance(a: str, b: str) -> int:
    """Count the positions at which two strings differ."""
    count = 0
    for x, y in zip(a, b):
        if x != y:
            count += 1
    return count


def balanced_brackets(text: str) -> bool:
    """Check if the brackets in a string are balanced."""
    pairs = {")": "(", "]": "[", "}": "{"}
    stack = []
    for char in text:
        if char in "([{":
            stack.append(char)
        elif char in pairs:
            if not stack or stack.pop() != pairs[char]:
                return False
    return not stack


def is_valid_email(text: str) -> bool:
    """Check if a string looks like an email address."""
    name, at, domain = text.partition("@")
    return bool(name) and at == "@" and "." in domain


def fizzbuzz(n: int) -> list[str]:
    """Return the FizzBuzz sequence from 1 to n.

    >>> fizzbuzz(3)
    ['1', '2', 'Fizz']
    """
    result = []
    for i in range(1, n + 1):
        if i % 15 == 0:
            result.append("FizzBuzz")
        elif i % 3 == 0:
            result.append("Fizz")
        elif i % 5 == 0:
            result.append("Buzz")
        else:
            result.append(str(i))
    return result


def hanoi(n: int, source: str, target: str, spare: str) -> None:
    """Print the moves that solve the Towers of Hanoi."""
    if n == 0:
        return
    hanoi(n - 1, source, spare, target)
    print(f"Move disk {n} from {source} to {target}")
    hanoi(n - 1, spare, target, source)


def permutations(items: list) -> list[list]:
    """Return all permutations of a list."""
    if not items:
        return [[]]
    result = []
    for i in range(len(items)):
        rest = items[:i] + items[i + 1 :]
        for permutation in permutations(rest):
            result.append([items[i]] + permutation)
    return result


def subsets(items: list) -> list[list]:
    """Return all subsets of a list."""
    result = [[]]
    for item in items:
        result += [subset + [item] for subset in result]
    return result


def depth_first_search(graph: dict[str, list[str]], start: str) -> list[str]:
    """Visit the nodes of a graph in depth-first order."""
    visited = []
    stack = [start]
    while stack:
        node = stack.pop()
        if node not in visited:
            visited.append(node)
            stack.extend(reversed(graph[node]))
    return visited


def breadth_first_search(graph: dict[str, list[str]], start: str) -> list[str]:
    """Visit the nodes of a graph in breadth-first order."""
    visited = [start]
    queue = [start]
    while queue:
        node = queue.pop(0)
        for neighbor in graph[node]:
            if neighbor not in visited:
                visited.append(neighbor)
                queue.append(neighbor)
    return visited


def shortest_path(graph: dict[str, list[str]], start: str, goal: str) -> list[str]:
    """Return the shortest path between two nodes of a graph."""
    queue = [[start]]
    seen = {start}
    while queue:
        path = queue.pop(0)
        if path[-1] == goal:
            return path
        for neighbor in graph[path[-1]]:
            if neighbor not in seen:
                seen.add(neighbor)
                queue.append(path + [neighbor])
    return []


def merge_dicts(a: dict, b: dict) -> dict:
    """Merge two dictionaries into a new one."""
    result = dict(a)
    for key, value in b.items():
        result[key] = value
    return result


def invert_dict(mapping: dict) -> dict:
    """Swap the keys and the values of a dictionary."""
    result = {}
    for key, value in mapping.items():
        result[value] = key
    return result


def group_by_length(words: list[str]) -> dict[int, list[str]]:
    """Group words by their length."""
    groups = {}
    for word in words:
        groups.setdefault(len(word), []).append(word)
    return groups


def group_by(items: list, key) -> dict:
    """Group the items of a list by the result of a function."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def filter_dict(mapping: dict, keys: list) -> dict:
    """Keep only the given keys of a dictionary."""
    result = {}
    for key in keys:
        if key in mapping:
            result[key] = mapping[key]
    return result


def sort_by_value(mapping: dict[str, int]) -> list[tuple[str, int]]:
    """Return the items of a dictionary sorted by value."""
    items = list(mapping.items())
    items.sort(key=lambda item: item[1])
    return items


def read_lines(path: str) -> list[str]:
    """Read a file and return its lines."""
    with open(path) as file:
        return [line.rstrip("\n") for line in file]


def count_lines(path: str) -> int:
    """Return the number of lines in a file."""
    with open(path) as file:
        return sum(1 for line in file)


def read_json(path: str) -> dict:
    """Read a JSON file."""
    import json

    with open(path) as file:
        return json.load(file)


def write_json(path: str, data: dict) -> None:
    """Write data to a JSON file."""
    import json

    with open(path, "w") as file:
        json.dump(data, file, indent=2)


def read_csv(path: str) -> list[list[str]]:
    """Read a CSV file and return its rows."""
    import csv

    with open(path, newline="") as file:
        return list(csv.reader(file))


def hello(name: str) -> str:
    """Return a greeting for the given name."""
    greeting = f"Hello, {name}!"
    return greeting


def timer(function) -> object:
    """Decorator that prints how long a function takes."""
    import time

    def wrapper(*args, **kwargs):
        start = time.time()
        result = function(*args, **kwargs)
        print(f"{function.__name__} took {time.time() - start:.3f} seconds")
        return result

    return wrapper


def retry(function, attempts: int) -> object:
    """Call a function again until it works or the attempts are used up."""
    for attempt in range(attempts):
        try:
            return function()
        except Exception:
            if attempt == attempts - 1:
                raise


def memoize(function) -> object:
    """Cache the results of a function."""
    cache = {}

    def wrapper(*args):
        if args not in cache:
            cache[args] = function(*args)
        return cache[args]

    return wrapper


def days_between(first: str, second: str) -> int:
    """Return the number of days between two dates."""
    from datetime import date

    start = date.fromisoformat(first)
    end = date.fromisoformat(second)
    return abs((end - start).days)


def format_seconds(seconds: int) -> str:
    """Format a number of seconds as hours, minutes and seconds."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}"


def random_password(length: int) -> str:
    """Return a random password of the given length."""
    import random
    import string

    alphabet = string.ascii_letters + string.digits
    return "".join(random.choice(alphabet) for _ in range(length))


def compound_interest(principal: float, rate: float, years: int) -> float:
    """Return the value of an investment after the given number of years."""
    amount = principal
    for _ in range(years):
        amount *= 1 + rate
    return amount


def normalize(numbers: list[float]) -> list[float]:
    """Scale the numbers of a list to the range from 0 to 1."""
    low, high = min(numbers), max(numbers)
    if low == high:
        return [0.0 for _ in numbers]
    return [(x - low) / (high - low) for x in numbers]


def closest(numbers: list[float], target: float) -> float:
    """Return the number of a list that is closest to target."""
    best = numbers[0]
    for number in numbers:
        if abs(number - target) < abs(best - target):
            best = number
    return best


def missing_number(numbers: list[int]) -> int:
    """Return the number from 0 to n that is missing in a list."""
    n = len(numbers)
    expected = n * (n + 1) // 2
    return expected - sum(numbers)


def all_unique(items: list) -> bool:
    """Check if all items of a list are different."""
    seen = set()
    for item in items:
        if item in seen:
            return False
        seen.add(item)
    return True


def repeat(text: str, times: int) -> str:
    """Repeat a string the given number of times."""
    result = ""
    for _ in range(times):
        result += text
    return result


def truncate(text: str, length: int) -> str:
    """Shorten a text to the given length."""
    if len(text) <= length:
        return text
    return text[: length - 3] + "..."


def slugify(text: str) -> str:
    """Turn a title into a slug with lower case letters and dashes."""
    words = []
    for word in text.lower().split():
        words.append("".join(char for char in word if char.isalnum()))
    return "-".join(words)


# Other ways in which people ask for some of them.
ALSO = {
    "fibonacci": [
        "Return the nth Fibonacci number.",
        "Compute the n-th number of the Fibonacci sequence.",
        "Return the Fibonacci number at position n.",
        "Calculate the nth Fibonacci number.",
        "Takes an integer n and returns the n-th Fibonacci number.",
    ],
    "fibonacci_list": [
        "Return the first n Fibonacci numbers.",
        "Return the Fibonacci sequence up to n terms as a list.",
    ],
    "factorial": [
        "Compute the factorial of a number.",
        "Compute n factorial.",
        "Calculate the factorial of a non-negative integer n.",
        "Takes a number n and returns its factorial.",
    ],
    "is_prime": [
        "Check if a number is prime.",
        "Check whether n is prime.",
        "Determine whether a given number is prime.",
        "Takes an integer n and returns True if it is prime and False otherwise.",
    ],
    "primes": ["Return a list of the primes up to n.", "List all primes that are not larger than n."],
    "gcd": ["Compute the greatest common divisor of two numbers.", "Return the gcd of two integers."],
    "reverse_string": [
        "Reverse a string.",
        "Return the reverse of a string.",
        "Takes a string and returns it reversed.",
    ],
    "is_palindrome": [
        "Check if a string is a palindrome.",
        "Check whether the given text is a palindrome.",
        "Return True if the text is a palindrome and False otherwise.",
    ],
    "sum_list": [
        "Return the sum of all numbers in a list.",
        "Compute the sum of a list.",
        "Add up the numbers of a list.",
    ],
    "maximum": ["Return the maximum of a list.", "Find the largest number in a list."],
    "minimum": ["Return the minimum of a list.", "Find the smallest number in a list."],
    "average": ["Compute the average of the numbers in a list.", "Return the mean of a list of numbers."],
    "count_vowels": ["Count the vowels in a string.", "Return how many vowels a text has."],
    "binary_search": [
        "Search for a target in a sorted list with binary search.",
        "Find the index of an item in a sorted list.",
    ],
    "bubble_sort": ["Sort a list of numbers in ascending order.", "Implement the bubble sort algorithm."],
    "quicksort": ["Sort a list of numbers with quicksort.", "Implement the quicksort algorithm."],
    "fizzbuzz": ["Return the FizzBuzz list for the numbers from 1 to n.", "Solve the FizzBuzz problem for n numbers."],
    "add": ["Add two numbers.", "Return the sum of a and b.", "Takes two numbers and returns their sum."],
    "multiply": ["Multiply two numbers.", "Return the product of a and b."],
    "flatten": ["Flatten a list of lists.", "Turn a nested list into a flat one."],
    "hello": ["Greet a person by name.", "Say hello to someone."],
    "word_count": ["Count the words of a text.", "Return a dictionary with the number of times each word occurs."],
    "remove_duplicates": ["Return the list without duplicates.", "Remove duplicate items from a list."],
}
